-- Extends the lease of the attempt that holds the job and stores its progress.
-- ARGV: id, attempt, lease, progress or ''
-- Returns 'ok', 'cancel' or 'lost'
local id, attempt, lease, progress = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]

local job = load_job(id)
if not job or job.state ~= 'running' or job.attempt ~= attempt then
  return 'lost'
end
redis.call('ZADD', prefix .. 'leases', integer(now + lease), id)
if progress ~= '' and progress ~= job.progress then
  redis.call('HSET', job_key(id), 'progress', progress)
  announce_change(id)
end
return job.cancel == '1' and 'cancel' or 'ok'
