-- Gives a queued job, or a running one whose lease ran out, to one worker under a new attempt number.
-- ARGV: id, nonce of the call, worker, lease, max_tries, exhausted problem, cancelled problem
-- Returns nil or {attempt, owner, request_digest, request, report of a finished twin or '', kind, files of earlier attempts or ''}
local id, call, worker, lease = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local ends = {max_tries = tonumber(ARGV[5]), exhausted = ARGV[6], cancelled = ARGV[7]}

local job = load_job(id)
if not job then
  return nil
end

local function reply(attempt, report)
  local request, files = unpack(redis.call('HMGET', job_key(id), 'request', 'files'))
  return {tonumber(attempt), job.owner, job.request_digest, request, report or '', job.kind or 'audit', files or ''}
end

local report = job.fresh ~= '1' and redis.call('GET', twin_key('report', job))
if job.state == 'running' then
  if job.call == call then
    return reply(job.attempt, report)
  end
  if has_live_lease(id) then
    return nil
  end
  retire_attempt(job, ends)
end
if job.state ~= 'queued' then
  return nil
end

-- Two equal requests at once run once: the second waits for the first one's report.
if not report then
  local leader = redis.call('GET', twin_key('active', job))
  local led = leader and leader ~= id and has_live_lease(leader)
  if led and job.fresh ~= '1' then
    redis.call('SADD', twin_key('waiting', job), id)
    return nil
  end
  if not led then
    redis.call('SET', twin_key('active', job), id)
  end
end

local attempt = redis.call('HINCRBY', job_key(id), 'attempt', 1)
redis.call('HINCRBY', job_key(id), 'tries', 1)
redis.call('HSET', job_key(id), 'started_at', integer(now), 'worker', worker, 'call', call)
enter(job, 'running', now + lease)
announce_change(id)
return reply(attempt, report)
