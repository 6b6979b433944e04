-- Stores the verdict of a job that succeeded, unless it has one.
-- ARGV: id, owner, verdict
-- Returns {'missing' | 'ended' | 'newer' | 'ok', fields}
local id, owner, verdict = unpack(ARGV, 1, 3)

local job, refusal = load_owned_job(id, owner)
if not job then
  return {refusal}
end
if job.state ~= 'succeeded' or (job.verdict and job.verdict ~= verdict) then
  return {'ended', redis.call('HGETALL', job_key(id))}
end
if not job.verdict then
  redis.call('HSET', job_key(id), 'verdict', verdict)
  announce_change(id)
end
return {'ok', redis.call('HGETALL', job_key(id))}
