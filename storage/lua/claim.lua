-- Gives a job to one worker under a new attempt number: the next one of a queue, or only the job of this id.
-- The next one has the best priority; among these its owner has the fewest running, then has been served the longest time ago;
-- and it is the oldest of that owner's. A job rises by one priority for every AGE that it waits, so that none waits for ever.
-- ARGV: id of a doorbell, nonce of the call, worker, lease, queue or '', max_tries, exhausted, cancelled, late problem
-- Returns nil or {id, attempt, owner, request_digest, request, report of a finished twin or '', kind, time to the deadline or '',
--   files of earlier attempts or ''}
local rung, call, worker, lease, queue = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local ends = read_ends(6)
local AGE = 600 * 1000000
local CALL_LIFE_MS = 60000

local function reply(job, attempt, report)
  local request, files = unpack(redis.call('HMGET', job_key(job.id), 'request', 'files'))
  local left = job.deadline_at and integer(math.max(0, tonumber(job.deadline_at) - now)) or ''
  local kind = job.kind or 'audit'
  return {job.id, tonumber(attempt), job.owner, job.request_digest, request, report or '', kind, left, files or ''}
end

local function find_report(job)
  return job.fresh ~= '1' and redis.call('GET', twin_key('report', job))
end

-- Two equal requests at once run once: the second waits for the first one's report. Whoever need not wait leads.
local function waits_for_twin(job, report)
  if report then
    return false
  end
  local leader = redis.call('GET', twin_key('active', job))
  local led = leader and leader ~= job.id and has_live_lease(leader)
  if led and job.fresh ~= '1' then
    hold_back(job)
    return true
  end
  if not led then
    redis.call('SET', twin_key('active', job), job.id)
  end
  return false
end

local function take(job)
  local report = find_report(job)
  if waits_for_twin(job, report) then
    return nil
  end
  local attempt = redis.call('HINCRBY', job_key(job.id), 'attempt', 1)
  redis.call('HINCRBY', job_key(job.id), 'tries', 1)
  redis.call('HSET', job_key(job.id), 'started_at', integer(now), 'worker', worker, 'call', call)
  redis.call('SET', prefix .. 'call:' .. call, job.id, 'PX', CALL_LIFE_MS)
  redis.call('HSET', prefix .. 'served', job.owner, integer(now))
  enter(job, 'running', now + lease)
  announce_change(job.id)
  return reply(job, attempt, report)
end

local function goes_before(one, other)
  for i = 1, 4 do
    if one[i] ~= other[i] then
      return one[i] < other[i]
    end
  end
  return one.key < other.key
end

-- The lanes of a queue that hold jobs, in any order.
local function find_lanes()
  local lanes, running = {}, {}
  for _, name in ipairs(redis.call('SMEMBERS', prefix .. 'lanes:' .. queue)) do
    local head = redis.call('ZRANGE', lane_key(queue, name), 0, 0, 'WITHSCORES')
    if #head == 0 then
      redis.call('SREM', prefix .. 'lanes:' .. queue, name)
    else
      local priority, owner = string.match(name, '^(%d+):(.*)$')
      running[owner] = running[owner] or count_running(owner)
      local risen = math.floor((now - tonumber(head[2])) / AGE)
      table.insert(lanes, {
        key = lane_key(queue, name), running = running[owner],
        math.max(0, tonumber(priority) - risen), running[owner],
        tonumber(redis.call('HGET', prefix .. 'served', owner) or '0'), tonumber(head[2]),
      })
    end
  end
  return lanes
end

-- Takes the first job of the lane that can run. What cannot is put where it belongs, so that nobody looks at it twice.
local function take_from(lane)
  while true do
    local id = redis.call('ZRANGE', lane.key, 0, 0)[1]
    local job = id and load_job(id)
    if not id then
      return nil
    elseif not job or job.state ~= 'queued' then
      redis.call('ZREM', lane.key, id)
    elseif is_late(job) then
      end_job(job, 'failed', ends.late)
    elseif is_full(job, lane.running) then
      return nil
    else
      local taken = take(job)
      if taken then
        return taken
      end
    end
  end
end

local known = redis.call('GET', prefix .. 'call:' .. call)
local again = known and load_job(known)
if again and again.state == 'running' and again.call == call then
  return reply(again, again.attempt, find_report(again))
end

local job = load_job(rung)
if job and job.state == 'running' and not has_live_lease(rung) then
  retire_attempt(job, ends)
end
if queue == '' then
  if not job or job.state ~= 'queued' then
    return nil
  end
  if is_late(job) then
    return end_job(job, 'failed', ends.late)
  end
  return take(job)
end
if job then
  mend_lane(job, queue)
end
local lanes, first = find_lanes(), 1
for i, lane in ipairs(lanes) do
  first = goes_before(lane, lanes[first]) and i or first
end
-- The first one nearly always has a job that may run; only else are the others put in order.
local taken = #lanes > 0 and take_from(lanes[first])
if taken then
  return taken
end
table.remove(lanes, first)
table.sort(lanes, goes_before)
for _, lane in ipairs(lanes) do
  taken = take_from(lane)
  if taken then
    return taken
  end
end
return nil
