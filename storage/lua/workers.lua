-- Notes that a worker lives (ARGV: worker, for how long; 0: it leaves) and forgets those that have fallen silent.
-- Returns how many are known
local worker, life = ARGV[1], tonumber(ARGV[2] or '0')

if worker and life > 0 then
  redis.call('ZADD', prefix .. 'workers', integer(now + life), worker)
elseif worker then
  redis.call('ZREM', prefix .. 'workers', worker)
end
redis.call('ZREMRANGEBYSCORE', prefix .. 'workers', '-inf', integer(now))
return redis.call('ZCARD', prefix .. 'workers')
