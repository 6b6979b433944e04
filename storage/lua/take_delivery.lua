-- Gives one worker the ends of jobs that are to be told now. Each comes back by itself if the worker does not settle it in time.
-- ARGV: time until it comes back, most
-- Returns {id, attempt, fields, id, attempt, fields, ...}
local life, most = tonumber(ARGV[1]), tonumber(ARGV[2])
local found = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', prefix .. 'outbox', '-inf', integer(now), 'LIMIT', 0, most)) do
  if load_job(id) then
    redis.call('ZADD', prefix .. 'outbox', integer(now + life), id)
    local attempt = redis.call('HINCRBY', job_key(id), 'delivery', 1)
    table.insert(found, id)
    table.insert(found, attempt)
    table.insert(found, redis.call('HGETALL', job_key(id)))
  elseif redis.call('EXISTS', job_key(id)) == 0 then
    redis.call('ZREM', prefix .. 'outbox', id)
  else -- of a newer program, which delivers it
    redis.call('ZADD', prefix .. 'outbox', integer(now + life), id)
  end
end
return found
