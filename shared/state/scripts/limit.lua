-- Set a worker's batch limit: a compare-and-set by version, so that only one of two monitors acts. A limit
-- that differs from the last is also added to the history.
-- KEYS limit, limits
-- ARGV version, ttl_ms, entry of the history, entries kept, tokens, pairs, then more fields and values
-- -> 1, or 0 when another monitor was first
local version = tonumber(ARGV[1])
local last = redis.call('HMGET', KEYS[1], 'version', 'tokens', 'pairs')
if (tonumber(last[1]) or 0) ~= version - 1 then return 0 end
redis.call('HSET', KEYS[1], 'version', version, 'tokens', ARGV[5], 'pairs', ARGV[6], unpack(ARGV, 7))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
if last[2] ~= ARGV[5] or last[3] ~= ARGV[6] then
  redis.call('LPUSH', KEYS[2], ARGV[3])
  redis.call('LTRIM', KEYS[2], 0, ARGV[4] - 1)
end
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return 1
