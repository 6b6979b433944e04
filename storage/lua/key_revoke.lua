-- Revokes a key for good; revoking it again changes nothing. Its record is kept for a while.
-- ARGV: id, tenant or '' for any
-- Returns {'missing'} or {'revoked', fields}
local KEPT_DEAD_S = 90 * 24 * 3600
local id, tenant = ARGV[1], ARGV[2]
local key = prefix .. 'key:' .. id

local found = redis.call('HGET', key, 'tenant')
if not found or (tenant ~= '' and found ~= tenant) then
  return {'missing'}
end
if redis.call('HEXISTS', key, 'revoked_at') == 0 then
  redis.call('HSET', key, 'revoked_at', integer(now))
  redis.call('PEXPIREAT', key, integer(now / 1000 + KEPT_DEAD_S * 1000))
end
redis.call('PUBLISH', prefix .. 'key_changes', id)
return {'revoked', redis.call('HGETALL', key)}
