-- Notes that a worker lives (ARGV: worker, for how long, how it confines audits; 0: it leaves) and forgets those that have
-- fallen silent. Returns how each of the others confines its audits
local worker, life = ARGV[1], tonumber(ARGV[2] or '0')

if worker then
  redis.call('ZADD', prefix .. 'workers', integer(now + life), worker)
  redis.call('HSET', prefix .. 'sandboxes', worker, ARGV[3])
  redis.call('HSET', prefix .. 'announced', worker, integer(now))
end
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', prefix .. 'workers', '-inf', integer(now))) do
  redis.call('ZREM', prefix .. 'workers', gone)
  redis.call('HDEL', prefix .. 'sandboxes', gone)
  redis.call('HDEL', prefix .. 'announced', gone)
end
local found = {}
for _, name in ipairs(redis.call('ZRANGE', prefix .. 'workers', 0, -1)) do
  found[#found + 1] = redis.call('HGET', prefix .. 'sandboxes', name) or '{}'
end
return found
