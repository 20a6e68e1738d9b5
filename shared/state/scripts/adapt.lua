-- Record that a job's scores changed its profile's temperature: once per job, and only if the job ran with
-- the temperature that the profile has now, since its scores say nothing about another one. That is the one
-- of the newest change, or the configured one if that differs from the base of the change. Repeatable.
-- KEYS job, profile
-- ARGV change (JSON with "base", the profile's own; "before"; "to"), changes kept, ttl_ms
-- -> 1 when the temperature was changed now
if redis.call('EXISTS', KEYS[1]) == 0 or redis.call('HSETNX', KEYS[1], 'adapted', 1) == 0 then return 0 end
local change, newest = cjson.decode(ARGV[1]), redis.call('LINDEX', KEYS[2], 0)
local present = newest and cjson.decode(newest) or {}
local now = present.base == change.base and present.to or change.base
if now ~= change.before then return 0 end
redis.call('LPUSH', KEYS[2], ARGV[1])
redis.call('LTRIM', KEYS[2], 0, ARGV[2] - 1)
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return 1
