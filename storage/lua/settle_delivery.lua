-- Notes what became of an attempt to tell the end of a job, and when the next one is due, unless another attempt began meanwhile.
-- ARGV: id, attempt, entry of the log or '' if nothing was tried, time until the next attempt or '' for none, outcome: pending, delivered or given_up
-- Returns 1 or 0
local id, attempt, entry, pause, outcome = unpack(ARGV, 1, 5)
local given, log, settled = unpack(redis.call('HMGET', job_key(id), 'delivery', 'deliveries', 'settled'))
if given ~= attempt then
  return 0
end
if settled ~= attempt then
  redis.call('HSET', job_key(id), 'settled', attempt, 'told', outcome)
  if entry ~= '' then
    redis.call('HSET', job_key(id), 'deliveries', (log and log .. '\n' or '') .. entry)
  end
  if pause == '' then
    redis.call('ZREM', prefix .. 'outbox', id)
  else
    redis.call('ZADD', prefix .. 'outbox', integer(now + tonumber(pause)), id)
  end
end
return 1
