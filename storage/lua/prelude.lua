-- Stands before every script. KEYS[1] is the key prefix. Times are microseconds of the server's clock.
-- A job is in exactly one of the sorted sets `pending` (queued), `leases` (running), `quarantine`, or has ended.
local prefix = KEYS[1]
local RECORD_VERSION = 1
local SET_OF = {queued = 'pending', running = 'leases', quarantined = 'quarantine'}
local FIELDS = {
  'schema_version', 'owner', 'state', 'attempt', 'tries', 'cancel', 'request_digest', 'fresh', 'created_at',
  'report_sha256', 'problem', 'verdict', 'progress', 'call', 'cancel_call', 'ended_by', 'released_by', 'rung_at', 'rings',
  'kind', 'device', 'priority', 'max_running', 'deadline_at',
}
local DEFAULT_PRIORITY = 5

local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]

local function integer(number)
  return string.format('%.0f', number)
end

local function job_key(id)
  return prefix .. 'job:' .. id
end

-- The owner comes last in every key, so that no owner's name can be read as part of another key.
local function index_key(kind, owner)
  return prefix .. 'index:' .. kind .. ':' .. owner
end

-- Only audits are listed; a record without a kind is an audit of a program that knew no other.
local function list(job, state)
  if not job.kind or job.kind == 'audit' then
    redis.call('ZADD', index_key(state, job.owner), 0, job.id)
  end
end

-- Jobs of one owner with the same request digest are twins: their reports are equal.
local function twin_key(kind, job)
  return prefix .. kind .. ':' .. job.request_digest .. ':' .. job.owner
end

-- Records of a newer program are nil here: they are left alone.
local function load_job(id)
  local values = redis.call('HMGET', job_key(id), unpack(FIELDS))
  if not values[1] or tonumber(values[1]) > RECORD_VERSION then
    return nil
  end
  local job = {id = id}
  for i, name in ipairs(FIELDS) do
    job[name] = values[i]
  end
  return job
end

-- The owner's job; or nil, and why this caller cannot have it.
local function load_owned_job(id, owner)
  if redis.call('HGET', job_key(id), 'owner') ~= owner then
    return nil, 'missing'
  end
  local job = load_job(id)
  return job, not job and 'newer' or nil
end

local function announce_change(id)
  redis.call('HINCRBY', job_key(id), 'revision', 1)
  redis.call('PUBLISH', prefix .. 'changes', id)
end

local function has_live_lease(id)
  local deadline = redis.call('ZSCORE', prefix .. 'leases', id)
  return deadline and tonumber(deadline) > now
end

-- A lane holds what may be claimed: an owner's queued jobs for one class of device and of one priority, oldest first.
-- Lanes only speed up the search for the next job. `pending` is the truth; `sweep` mends lanes that an older program left wrong.
local function lane_key(device, lane)
  return prefix .. 'lane:' .. device .. ':' .. lane
end

local function name_lane(job)
  return (job.priority or DEFAULT_PRIORITY) .. ':' .. job.owner
end

local function join_lane(job)
  redis.call('ZADD', lane_key(job.device, name_lane(job)), job.created_at, job.id)
  redis.call('SADD', prefix .. 'lanes:' .. job.device, name_lane(job))
  redis.call('SADD', prefix .. 'devices', job.device)
end

local function leave_lane(job)
  if job.device then
    redis.call('ZREM', lane_key(job.device, name_lane(job)), job.id)
  end
end

-- A queued job waits for the report of a twin that runs.
local function hold_back(job)
  leave_lane(job)
  redis.call('SADD', twin_key('waiting', job), job.id)
end

-- How many of an owner's jobs run, without those that an older program ended and left in the set.
local function count_running(owner)
  local running = 0
  for _, id in ipairs(redis.call('SMEMBERS', prefix .. 'running:' .. owner)) do
    if redis.call('ZSCORE', prefix .. 'leases', id) then
      running = running + 1
    else
      redis.call('SREM', prefix .. 'running:' .. owner, id)
    end
  end
  return running
end

-- How many of an owner's jobs are queued or running. Those that an older program ended and left in the set are looked for only
-- when there seem to be too many, and once a minute: looking takes time.
local function count_live(owner, most)
  local live = prefix .. 'live:' .. owner
  if redis.call('SCARD', live) >= most and redis.call('SET', prefix .. 'live_mended:' .. owner, 1, 'NX', 'EX', 60) then
    for _, id in ipairs(redis.call('SMEMBERS', live)) do
      if not redis.call('ZSCORE', prefix .. 'pending', id) and not redis.call('ZSCORE', prefix .. 'leases', id) then
        redis.call('SREM', live, id)
      end
    end
  end
  return redis.call('SCARD', live)
end

local function is_full(job, running)
  local most = tonumber(job.max_running or '0')
  return most > 0 and running >= most
end

-- Puts a queued job that waits for no twin into its lane, if it is in none: one of an older program, which knew no lanes.
local function mend_lane(job, device)
  if job.state ~= 'queued' or redis.call('SISMEMBER', twin_key('waiting', job), job.id) == 1 then
    return
  end
  if not job.device then
    job.device = device
    redis.call('HSET', job_key(job.id), 'device', device)
  end
  join_lane(job)
end

-- A job stops running: twins that were held back for it may be claimed now.
local function wake_twins(job)
  if redis.call('GET', twin_key('active', job)) == job.id then
    redis.call('DEL', twin_key('active', job))
  end
  local waiting = twin_key('waiting', job)
  local ids = redis.call('SMEMBERS', waiting)
  redis.call('DEL', waiting)
  for _, id in ipairs(ids) do
    redis.call('SADD', prefix .. 'wake', id)
    local twin = load_job(id)
    if twin and twin.device and twin.state == 'queued' then
      join_lane(twin)
    end
  end
end

-- The only place where a state changes: hash field, sorted sets, index and counts move together.
local function enter(job, state, score)
  if job.state == 'running' then
    redis.call('SREM', prefix .. 'running:' .. job.owner, job.id)
    wake_twins(job)
  elseif job.state == 'queued' then
    redis.call('SREM', twin_key('waiting', job), job.id)
    redis.call('ZREM', prefix .. 'deadlines', job.id)
    leave_lane(job)
  end
  if job.state then
    redis.call('ZREM', index_key(job.state, job.owner), job.id)
    redis.call('HINCRBY', prefix .. 'counts', job.state, -1)
  end
  if SET_OF[job.state] then
    redis.call('ZREM', prefix .. SET_OF[job.state], job.id)
  end
  if SET_OF[state] then
    redis.call('ZADD', prefix .. SET_OF[state], integer(score), job.id)
  end
  if state == 'queued' and job.device then
    join_lane(job)
  elseif state == 'running' then
    redis.call('SADD', prefix .. 'running:' .. job.owner, job.id)
  end
  if state == 'queued' and job.deadline_at then
    redis.call('ZADD', prefix .. 'deadlines', job.deadline_at, job.id)
  end
  list(job, state)
  local is_live = state == 'queued' or state == 'running'
  redis.call(is_live and 'SADD' or 'SREM', prefix .. 'live:' .. job.owner, job.id)
  redis.call('HINCRBY', prefix .. 'counts', state, 1)
  redis.call('HSET', job_key(job.id), 'state', state)
  job.state = state
end

-- The end of an audit goes into the outbox when its webhook is to be told of such an end.
local function post_end(job, state)
  local request = redis.call('HGET', job_key(job.id), 'request')
  if (job.kind or 'audit') ~= 'audit' or not string.find(request, '"webhook":{', 1, true) then
    return
  end
  local read, content = pcall(cjson.decode, request)
  for _, wanted in ipairs(read and type(content.webhook) == 'table' and content.webhook.events or {}) do
    if wanted == state then
      redis.call('ZADD', prefix .. 'outbox', integer(now), job.id)
    end
  end
end

local function end_job(job, state, problem)
  redis.call('HSET', job_key(job.id), 'ended_at', integer(now))
  if problem ~= '' then
    redis.call('HSET', job_key(job.id), 'problem', problem)
  end
  enter(job, state, now)
  post_end(job, state)
  announce_change(job.id)
end

local function is_late(job)
  return job.deadline_at and tonumber(job.deadline_at) <= now
end

-- ARGV from `first` on: max_tries, and the problems of jobs that a worker cannot end: exhausted, cancelled, late.
local function read_ends(first)
  return {max_tries = tonumber(ARGV[first]), exhausted = ARGV[first + 1], cancelled = ARGV[first + 2], late = ARGV[first + 3]}
end

-- An attempt is over and the job has not ended: back to the queue, unless it was cancelled, is too late or has used up its tries.
local function retire_attempt(job, ends)
  if job.cancel == '1' then
    return end_job(job, 'cancelled', ends.cancelled)
  end
  if is_late(job) then
    return end_job(job, 'failed', ends.late)
  end
  if tonumber(job.tries) >= ends.max_tries then
    return end_job(job, 'quarantined', ends.exhausted)
  end
  redis.call('HDEL', job_key(job.id), 'progress', 'started_at', 'call')
  redis.call('HSET', job_key(job.id), 'rung_at', integer(now), 'rings', 0)
  enter(job, 'queued', job.created_at)
  announce_change(job.id)
end

