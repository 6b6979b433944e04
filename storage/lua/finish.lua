-- Ends a job, if the attempt still holds it. The same end told twice by the same attempt is a repeated call.
-- ARGV: id, attempt, state, report_sha256 or '', verdict or '', problem or '', '1' if the report answers equal requests too
-- Returns 1 or 0
local id, attempt, state, report, verdict, problem, complete = unpack(ARGV, 1, 7)

local job = load_job(id)
if not job then
  return 0
end
if job.ended_by == attempt then
  local same = job.state == state and (job.report_sha256 or '') == report and (job.problem or '') == problem
  return same and 1 or 0
end
if job.state ~= 'running' or job.attempt ~= attempt then
  return 0
end
redis.call('HSET', job_key(id), 'ended_by', attempt)
if verdict ~= '' then
  redis.call('HSET', job_key(id), 'verdict', verdict)
end
if state == 'succeeded' then
  redis.call('HSET', job_key(id), 'report_sha256', report)
  if complete == '1' then
    redis.call('SET', twin_key('report', job), report)
  end
end
end_job(job, state, problem)
return 1
