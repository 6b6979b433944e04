-- Whose key this is. The work is the same for ids that exist and ids that do not, whatever the secret.
-- ARGV: id, sha256 of the presented secret (64 hexadecimal digits)
-- Returns {'unknown'} or {'live' | 'expired' | 'revoked', tenant, label, scopes}
local LAST_USED_STEP = 60 * 1000000
local key = prefix .. 'key:' .. ARGV[1]
local kept, tenant, label, scopes, expires_at, revoked_at, last_used_at = unpack(
  redis.call('HMGET', key, 'secret_sha256', 'tenant', 'label', 'scopes', 'expires_at', 'revoked_at', 'last_used_at'))

local expected = kept or string.rep('0', 64)
local difference = 0
for i = 1, 64 do
  difference = bit.bor(difference, bit.bxor(string.byte(expected, i), string.byte(ARGV[2], i)))
end
if difference ~= 0 or not kept then
  return {'unknown'}
end
if revoked_at then
  return {'revoked', tenant, label, scopes}
end
if expires_at and tonumber(expires_at) <= now then
  return {'expired', tenant, label, scopes}
end
if not last_used_at or tonumber(last_used_at) + LAST_USED_STEP <= now then
  redis.pcall('HSET', key, 'last_used_at', integer(now)) -- a full disk must not turn a caller away who only reads
end
return {'live', tenant, label, scopes}
