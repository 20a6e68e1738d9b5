-- Renew the lease of a job's step: only its holder may, even after it ran out.
-- KEYS job, jobs
-- ARGV id, token, lease_ms
-- -> 'held' | 'cancelled' | 'paused' (held, and somebody asked for that) | 'lost' (it is another's, or the job ended)
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local job = redis.call('HMGET', KEYS[1], 'step_token', 'finished_ms', 'cancel', 'paused')
if job[1] ~= ARGV[2] or job[2] then return 'lost' end
redis.call('HSET', KEYS[1], 'step_until', now + ARGV[3])
redis.call('ZADD', KEYS[2], now + ARGV[3], ARGV[1])
if job[4] then return 'paused' end
return job[3] and 'cancelled' or 'held'
