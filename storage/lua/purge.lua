-- Removes an ended job and all that leads to it: indexes, counts, and the key that gives its report to an equal request.
-- ARGV: id, owner or '' for any, the latest end in microseconds or '' for any
-- Returns {'missing' | 'newer' | 'live' | 'young'} or {'ok', report_sha256 or ''}
local id, owner, latest = ARGV[1], ARGV[2], tonumber(ARGV[3])

local job, refusal
if owner == '' then
  job, refusal = load_job(id), 'missing'
else
  job, refusal = load_owned_job(id, owner)
end
if not job then
  return {refusal}
end
if job.state == 'queued' or job.state == 'running' then
  return {'live', job.state}
end
if latest and tonumber(redis.call('HGET', job_key(id), 'ended_at')) > latest then
  return {'young'}
end
redis.call('ZREM', index_key('all', job.owner), id)
redis.call('ZREM', index_key(job.state, job.owner), id)
redis.call('ZREM', prefix .. 'quarantine', id)
redis.call('ZREM', prefix .. 'outbox', id)
redis.call('HINCRBY', prefix .. 'counts', job.state, -1)
-- Twins keep their own pointers to this report; an equal request that comes from now on runs again.
if job.report_sha256 and redis.call('GET', twin_key('report', job)) == job.report_sha256 then
  redis.call('DEL', twin_key('report', job))
end
redis.call('DEL', job_key(id))
redis.call('PUBLISH', prefix .. 'changes', id)
return {'ok', job.report_sha256 or ''}
