-- Take or keep a role. The holder renews with the same token.
-- KEYS leader
-- ARGV token, ttl_ms
-- -> 1 when the caller leads
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
