-- Makes a key, unless its tenant and label have two live ones. A repeated call makes one: its id is in it.
-- With an old key's id, makes its successor, and lets the old one live for the overlap only.
-- ARGV: id, sha256 of its secret, tenant, label, scopes, life in s or '', created_by, old id or '', overlap in s
-- Returns {'created', fields}, {'full', id, id}, {'missing'} or {'dead', fields}: of the old one
local MOST_LIVE = 2
local KEPT_DEAD_S = 90 * 24 * 3600
local id, sha256, tenant, label, scopes, life_s, created_by, old_id, overlap_s = unpack(ARGV)
local key = prefix .. 'key:' .. id

local function is_live(other)
  local kept, expires_at, revoked_at = unpack(
    redis.call('HMGET', prefix .. 'key:' .. other, 'secret_sha256', 'expires_at', 'revoked_at'))
  return kept and not revoked_at and not (expires_at and tonumber(expires_at) <= now)
end

local function set_end(name, expires_at)
  redis.call('HSET', name, 'expires_at', integer(expires_at))
  redis.call('PEXPIREAT', name, integer(expires_at / 1000 + KEPT_DEAD_S * 1000))
end

if redis.call('EXISTS', key) == 1 then
  return {'created', redis.call('HGETALL', key)}
end

local old = prefix .. 'key:' .. old_id
if old_id ~= '' then
  if redis.call('HGET', old, 'tenant') ~= tenant then
    return {'missing'}
  end
  if not is_live(old_id) then
    return {'dead', redis.call('HGETALL', old)}
  end
  local created_at, expires_at
  label, scopes, created_at, expires_at = unpack(redis.call('HMGET', old, 'label', 'scopes', 'created_at', 'expires_at'))
  if life_s == '' and expires_at then
    life_s = (tonumber(expires_at) - tonumber(created_at)) / 1000000
  end
end

local siblings = prefix .. 'key_label:' .. label .. ':' .. tenant
local live = {}
for _, other in ipairs(redis.call('SMEMBERS', siblings)) do
  if is_live(other) then
    table.insert(live, other)
  else
    redis.call('SREM', siblings, other)
  end
end
if #live >= MOST_LIVE then
  return {'full', unpack(live)}
end

redis.call('HSET', key, 'schema_version', RECORD_VERSION, 'secret_sha256', sha256, 'tenant', tenant, 'label', label,
  'scopes', scopes, 'created_at', integer(now), 'created_by', created_by)
if life_s ~= '' then
  set_end(key, now + tonumber(life_s) * 1000000)
end
redis.call('SADD', siblings, id)
redis.call('ZADD', prefix .. 'keys', 0, id)
redis.call('ZADD', prefix .. 'keys_of:' .. tenant, 0, id)
if old_id ~= '' then
  local expires_at = redis.call('HGET', old, 'expires_at')
  local ends_at = now + tonumber(overlap_s) * 1000000
  if not expires_at or ends_at < tonumber(expires_at) then
    set_end(old, ends_at)
    redis.call('PUBLISH', prefix .. 'key_changes', old_id)
  end
end
return {'created', redis.call('HGETALL', key)}
