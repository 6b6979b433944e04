-- Makes a job, once per idempotency key. Without a key the caller's nonce is one, so that a repeated call makes one job.
-- ARGV: nonce, owner, request, request_digest, labels, fresh, idempotency key, its life in ms, body_sha256, kind,
--   device, priority, most of the owner's jobs that may run beside it or 0, time to the deadline or '', most of the owner's jobs
--   that may be queued or running with it or 0, traceparent or ''
-- Returns {'mismatch'}, {'full'} or {'known' | 'created', id, fields}
local nonce, owner, request, request_digest, labels, fresh = unpack(ARGV, 1, 6)
local idempotency, life_ms, body_sha256, kind = prefix .. 'idempotency:' .. ARGV[7], ARGV[8], ARGV[9], ARGV[10]
local device, priority, max_running, deadline = unpack(ARGV, 11, 14)
local max_live = tonumber(ARGV[15])

local known = redis.call('GET', idempotency)
if known then
  local id, sha256 = string.match(known, '^(%S+) (%S+)$')
  if redis.call('EXISTS', job_key(id)) == 1 then
    if sha256 ~= body_sha256 then
      return {'mismatch'}
    end
    local ours = string.sub(id, -string.len(nonce)) == nonce
    return {ours and 'created' or 'known', id, redis.call('HGETALL', job_key(id))}
  end
end

-- What is answered with a report that is there takes no place. A policy in a file of its own may have to be fetched, which a worker
-- does; it then takes the report.
local fetches = string.find(request, '"policy":{"sha256":', 1, true)
local report = fresh ~= '1' and not fetches and redis.call('GET', twin_key('report', {request_digest = request_digest, owner = owner}))
if not report and max_live > 0 and count_live(owner, max_live) >= max_live then
  return {'full'}
end

-- Ids rise strictly even if the server's clock is set back: pages are ordered by id.
local tick = math.max(now, tonumber(redis.call('GET', prefix .. 'clock') or '0') + 1)
redis.call('SET', prefix .. 'clock', integer(tick))
local high = math.floor(tick / 16777216)
local id = string.format('%07x%06x', high, tick - high * 16777216) .. nonce

redis.call('SET', idempotency, id .. ' ' .. body_sha256, 'PX', life_ms)
redis.call('HSET', job_key(id),
  'schema_version', RECORD_VERSION, 'kind', kind, 'owner', owner, 'attempt', 0, 'tries', 0, 'revision', 0, 'cancel', 0,
  'request', request, 'request_digest', request_digest, 'labels', labels, 'fresh', fresh, 'created_at', integer(tick),
  'rung_at', integer(now), 'rings', 0, 'device', device, 'priority', priority, 'max_running', max_running)
local job = {
  id = id, kind = kind, owner = owner, request_digest = request_digest, created_at = integer(tick), device = device,
  priority = priority,
}
if deadline ~= '' then
  job.deadline_at = integer(now + tonumber(deadline))
  redis.call('HSET', job_key(id), 'deadline_at', job.deadline_at)
end
-- The last of ARGV, so that others may come before it.
if ARGV[#ARGV] ~= '' then
  redis.call('HSET', job_key(id), 'traceparent', ARGV[#ARGV])
end
list(job, 'all')
if report then
  redis.call('HSET', job_key(id), 'report_sha256', report, 'reused', 1)
  end_job(job, 'succeeded', '')
else
  enter(job, 'queued', tick)
  announce_change(id)
end
return {'created', id, redis.call('HGETALL', job_key(id))}
