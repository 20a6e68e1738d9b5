-- Lease a job for one step of the coordinator (feed or finish).
-- KEYS job, jobs
-- ARGV id, token, lease_ms
-- -> 'yes' | 'busy' | 'finished' | 'gone'
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local job = redis.call('HMGET', KEYS[1], 'spec', 'finished_ms', 'step_token', 'step_until')
if not job[1] then redis.call('ZREM', KEYS[2], ARGV[1]) return 'gone' end
if job[2] then redis.call('ZREM', KEYS[2], ARGV[1]) return 'finished' end
if job[3] and job[3] ~= ARGV[2] and tonumber(job[4]) > now then return 'busy' end
redis.call('HSET', KEYS[1], 'step_token', ARGV[2], 'step_until', now + ARGV[3])
redis.call('ZADD', KEYS[2], now + ARGV[3], ARGV[1])
return 'yes'
