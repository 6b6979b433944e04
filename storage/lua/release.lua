-- Gives a job back. An attempt that is released without a fault costs no try; its number is never valid again.
-- ARGV: id, attempt, '1' if a fault makes it count, max_tries, exhausted, cancelled, late problem
-- Returns 1 or 0
local id, attempt, counts = ARGV[1], ARGV[2], ARGV[3]
local ends = read_ends(4)

local job = load_job(id)
if not job then
  return 0
end
if job.released_by == attempt then
  return 1
end
if job.state ~= 'running' or job.attempt ~= attempt then
  return 0
end
redis.call('HSET', job_key(id), 'released_by', attempt)
if counts ~= '1' then
  job.tries = redis.call('HINCRBY', job_key(id), 'tries', -1)
end
retire_attempt(job, ends)
return 1
