-- Cancels a job that nobody runs, and asks the worker of one that runs to stop.
-- ARGV: id, owner, nonce of the call, cancelled problem
-- Returns {'missing' | 'ended' | 'newer' | 'ok', fields}
local id, owner, call, cancelled = unpack(ARGV, 1, 4)

local job, refusal = load_owned_job(id, owner)
if not job then
  return {refusal}
end
if job.cancel_call ~= call then
  if job.state ~= 'queued' and job.state ~= 'running' then
    return {'ended', redis.call('HGETALL', job_key(id))}
  end
  redis.call('HSET', job_key(id), 'cancel_call', call)
  if job.state == 'queued' or not has_live_lease(id) then
    redis.call('HSET', job_key(id), 'cancel', 1)
    end_job(job, 'cancelled', cancelled)
  elseif job.cancel ~= '1' then
    redis.call('HSET', job_key(id), 'cancel', 1)
    announce_change(id)
  end
end
return {'ok', redis.call('HGETALL', job_key(id))}
