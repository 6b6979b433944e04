-- One page of keys, newest first, from below the cursor. Records that are gone leave the lists here.
-- ARGV: tenant or '' for all, cursor or '', limit
-- Returns {now, '1' if there are more, id, fields, id, fields, ...}
local tenant, cursor, limit = ARGV[1], ARGV[2], tonumber(ARGV[3])
local list_key = tenant == '' and prefix .. 'keys' or prefix .. 'keys_of:' .. tenant

local start = cursor == '' and '+' or '(' .. cursor
local page = {integer(now), '0'}
local found = 0
while true do
  local ids = redis.call('ZREVRANGEBYLEX', list_key, start, '-', 'LIMIT', 0, limit + 1)
  for _, id in ipairs(ids) do
    local fields = redis.call('HGETALL', prefix .. 'key:' .. id)
    if #fields == 0 then
      redis.call('ZREM', list_key, id)
    elseif found == limit then
      page[2] = '1'
      return page
    else
      found = found + 1
      table.insert(page, id)
      table.insert(page, fields)
    end
    start = '(' .. id
  end
  if #ids == 0 then
    return page
  end
end
