-- Decide which attempt publishes the output of a job: the first that asks while it holds the step. Repeatable.
-- KEYS job, job_open
-- ARGV token
-- -> the attempt that publishes, or '' when the caller does not hold the step
local job = redis.call('HMGET', KEYS[1], 'step_token', 'finished_ms', 'sealed')
if job[1] ~= ARGV[1] or job[2] or job[3] ~= '1' or redis.call('HLEN', KEYS[2]) > 0 then return '' end
redis.call('HSETNX', KEYS[1], 'publishing', ARGV[1])
return redis.call('HGET', KEYS[1], 'publishing')
