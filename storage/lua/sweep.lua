-- Returns expired leases to the queue, ends queued jobs whose deadline is past, mends lanes, and finds the jobs whose doorbell
-- should ring: those returned, those that a twin held back, and the first of each lane that have been quiet for too long.
-- ARGV: max_tries, exhausted, cancelled, late problem, quiet time, longest quiet time, most jobs per kind, device of jobs without
-- Returns {id, device, id, device, ...}
local ends = read_ends(1)
local quiet, longest, most, default_device = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8]
local PAGE, DEADLINES = 64, 1000
local ringing = {}

local function ring(job)
  table.insert(ringing, job.id)
  table.insert(ringing, job.device or default_device)
end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', prefix .. 'leases', '-inf', integer(now))) do
  local job = load_job(id)
  if job then
    retire_attempt(job, ends)
    if job.state == 'queued' then
      ring(job)
    end
  end
end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', prefix .. 'deadlines', '-inf', integer(now), 'LIMIT', 0, DEADLINES)) do
  local job = load_job(id)
  if job and job.state == 'queued' then
    end_job(job, 'failed', ends.late)
  elseif job or redis.call('EXISTS', job_key(id)) == 0 then
    redis.call('ZREM', prefix .. 'deadlines', id)
  end
end

for _, id in ipairs(redis.call('SPOP', prefix .. 'wake', most)) do
  local job = load_job(id)
  if job and job.state == 'queued' then
    mend_lane(job, default_device)
    redis.call('HSET', job_key(id), 'rung_at', integer(now), 'rings', 0)
    ring(job)
  end
end

-- One page of the queue a round, in turn: jobs that an older program put there are in no lane.
local place = tonumber(redis.call('GET', prefix .. 'mended') or '0')
local page = redis.call('ZRANGE', prefix .. 'pending', place, place + PAGE - 1)
for _, id in ipairs(page) do
  local job = load_job(id)
  if job then
    mend_lane(job, default_device)
  end
end
redis.call('SET', prefix .. 'mended', #page == PAGE and place + PAGE or 0)

-- A doorbell that was rung and not answered is rung again after 1, 2, 4 ... quiet times, so that busy workers
-- do not find the broker full of doorbells. Any doorbell brings the queue's next job, so a few of each lane are enough.
local function ring_lane(key, room)
  local seen, stale = 0, {}
  local ids = redis.call('ZRANGE', key, 0, 4 * PAGE - 1)
  for _, id in ipairs(ids) do
    local job = seen < room and load_job(id)
    if job and job.state == 'queued' then
      if is_full(job, count_running(job.owner)) then
        break
      end
      seen = seen + 1
      local rings = tonumber(job.rings)
      if now - tonumber(job.rung_at) >= math.min(quiet * 2 ^ rings, longest) then
        redis.call('HSET', job_key(id), 'rung_at', integer(now), 'rings', rings + 1)
        ring(job)
      end
    elseif seen < room then
      table.insert(stale, id)
    end
  end
  for _, id in ipairs(stale) do
    redis.call('ZREM', key, id)
  end
  return seen
end

for _, device in ipairs(redis.call('SMEMBERS', prefix .. 'devices')) do
  local lanes = redis.call('SMEMBERS', prefix .. 'lanes:' .. device)
  local share, seen = math.max(1, math.floor(most / #lanes)), 0
  for _, lane in ipairs(lanes) do
    seen = seen + (seen < most and ring_lane(lane_key(device, lane), share) or 0)
  end
end
return ringing
