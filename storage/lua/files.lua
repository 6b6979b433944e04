-- Keeps the digests of the files that an attempt fetched, so that a later one reads the same.
-- With a request digest, that of the request with these files, the job becomes one of the jobs of that digest: it takes their
-- report, or waits while one of them runs.
-- ARGV: id, attempt, files, request_digest or '', max_tries, exhausted, cancelled, late problem
-- Returns {'ok' | 'lost' | 'waits', report of a finished twin or ''}
local id, attempt, files, digest = unpack(ARGV, 1, 4)
local ends = read_ends(5)

local job = load_job(id)
if not job then
  return {'lost', ''}
end
if digest ~= '' and job.released_by == attempt then
  return {'waits', ''}
end
if job.state ~= 'running' or job.attempt ~= attempt then
  return {'lost', ''}
end
redis.call('HSET', job_key(id), 'files', files)
if digest == '' then
  return {'ok', ''}
end
if job.request_digest ~= digest then
  wake_twins(job)
  job.request_digest = digest
  redis.call('HSET', job_key(id), 'request_digest', digest)
  announce_change(id)
end
local report = job.fresh ~= '1' and redis.call('GET', twin_key('report', job))
if report then
  return {'ok', report}
end
local leader = redis.call('GET', twin_key('active', job))
local led = leader and leader ~= id and has_live_lease(leader)
if led and job.fresh ~= '1' then
  redis.call('HSET', job_key(id), 'released_by', attempt)
  job.tries = redis.call('HINCRBY', job_key(id), 'tries', -1)
  retire_attempt(job, ends)
  if job.state == 'queued' then
    hold_back(job)
  end
  return {'waits', ''}
end
if not led then
  redis.call('SET', twin_key('active', job), id)
end
return {'ok', ''}
