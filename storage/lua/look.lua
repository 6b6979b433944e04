-- An owner's job. Another's takes as long as none, whatever is in it, so that the time does not tell that there is one.
-- ARGV: id, owner
-- Returns fields, none if the owner has no such job
if redis.call('HGET', job_key(ARGV[1]), 'owner') ~= ARGV[2] then
  return {}
end
return redis.call('HGETALL', job_key(ARGV[1]))
