-- Release a step's lease, and set when the monitor looks at the job again.
-- KEYS job, jobs
-- ARGV id, token, due_ms
-- -> 1 when it was held
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
if redis.call('HGET', KEYS[1], 'step_token') ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[1], 'step_token', 'step_until')
redis.call('ZADD', KEYS[2], 'XX', now + ARGV[3], ARGV[1])
return 1
