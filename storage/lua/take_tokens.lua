-- Takes up to so many tokens from a tenant's bucket, which fills by `rate` a second up to `burst`, on the server's clock.
-- ARGV: tenant, rate, burst, wanted
-- Returns {tokens granted, milliseconds until the next one if none was}
local bucket = prefix .. 'tokens:' .. ARGV[1]
local rate, burst, wanted = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

local tokens, at = unpack(redis.call('HMGET', bucket, 'tokens', 'at'))
local elapsed_s = math.max(0, now - tonumber(at or now)) / 1000000 -- a clock that was set back gives nothing and takes nothing
local filled = math.min(burst, tonumber(tokens or burst) + elapsed_s * rate)
local granted = math.min(wanted, math.floor(filled))
-- A store that cannot write at the moment must not turn a caller away who only reads: pcall.
if granted == 0 then
  return {0, math.ceil(1000 * (1 - filled) / rate)}
end
redis.pcall('HSET', bucket, 'tokens', string.format('%.6f', filled - granted), 'at', integer(now))
redis.pcall('PEXPIRE', bucket, math.ceil(1000 * burst / rate) + 1000) -- by then it is full, as one that is not there
return {granted, 0}
