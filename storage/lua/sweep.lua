-- Returns expired leases to the queue and finds the jobs whose doorbell should ring:
-- those, jobs that a twin held back, and the oldest pending ones that have been quiet for too long.
-- ARGV: max_tries, exhausted problem, cancelled problem, quiet time, longest quiet time, most jobs per kind
-- Returns ids
local ends = {max_tries = tonumber(ARGV[1]), exhausted = ARGV[2], cancelled = ARGV[3]}
local quiet, longest, most = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local PAGE, PAGES = 64, 64
local ringing = {}

for _, id in ipairs(redis.call('ZRANGEBYSCORE', prefix .. 'leases', '-inf', integer(now))) do
  local job = load_job(id)
  if job then
    retire_attempt(job, ends)
    if job.state == 'queued' then
      table.insert(ringing, id)
    end
  end
end

for _, id in ipairs(redis.call('SPOP', prefix .. 'wake', most)) do
  local job = load_job(id)
  if job and job.state == 'queued' then
    redis.call('HSET', job_key(id), 'rung_at', integer(now), 'rings', 0)
    table.insert(ringing, id)
  end
end

-- A doorbell that was rung and not answered is rung again after 1, 2, 4 ... quiet times, so that busy workers
-- do not find the broker full of doorbells. Jobs that wait for a twin and newer records take no place here.
local seen = 0
for page = 0, PAGES - 1 do
  local ids = redis.call('ZRANGE', prefix .. 'pending', page * PAGE, page * PAGE + PAGE - 1)
  for _, id in ipairs(ids) do
    local job = seen < most and load_job(id)
    if job and redis.call('SISMEMBER', twin_key('waiting', job), id) == 0 then
      seen = seen + 1
      local rings = tonumber(job.rings)
      if now - tonumber(job.rung_at) >= math.min(quiet * 2 ^ rings, longest) then
        redis.call('HSET', job_key(id), 'rung_at', integer(now), 'rings', rings + 1)
        table.insert(ringing, id)
      end
    end
  end
  if seen >= most or #ids < PAGE then
    break
  end
end
return ringing
