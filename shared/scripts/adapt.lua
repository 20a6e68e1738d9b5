-- Note that a job's scores changed its profile's temperature: once per job, and only from the temperature
-- that the profile has now, since a job's scores say nothing about another one. Repeatable.
-- KEYS job, profile
-- ARGV from, change (JSON with "to"), changes kept, ttl_ms
-- -> 1 when the temperature was changed now
if redis.call('EXISTS', KEYS[1]) == 0 or redis.call('HSETNX', KEYS[1], 'adapted', 1) == 0 then return 0 end
local newest = redis.call('LINDEX', KEYS[2], 0)
if newest and cjson.decode(newest).to ~= tonumber(ARGV[1]) then return 0 end
redis.call('LPUSH', KEYS[2], ARGV[2])
redis.call('LTRIM', KEYS[2], 0, ARGV[3] - 1)
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return 1
