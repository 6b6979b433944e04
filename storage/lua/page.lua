-- One page of an owner's jobs, newest first, from below the cursor.
-- ARGV: owner, state or 'all', cursor or '', limit
-- Returns {'1' if there are more, id, fields, id, fields, ...}
local owner, kind, cursor, limit = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])

local start = cursor == '' and '+' or '(' .. cursor
local ids = redis.call('ZREVRANGEBYLEX', index_key(kind, owner), start, '-', 'LIMIT', 0, limit + 1)
local page = {#ids > limit and '1' or '0'}
for i = 1, math.min(#ids, limit) do
  table.insert(page, ids[i])
  table.insert(page, redis.call('HGETALL', job_key(ids[i])))
end
return page
