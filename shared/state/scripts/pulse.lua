-- Record that a coordinator lives. After a silence there is an amnesty: leases that expired in it blame no
-- shard, and have the time of one more lease to be renewed.
-- KEYS pulse, amnesty
-- ARGV outage_ms, lease_ms
-- -> 1 when there was a silence
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local last = tonumber(redis.call('GET', KEYS[1]) or 0)
redis.call('SET', KEYS[1], now)
if now - last < tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[2], now + ARGV[2])
return 1
