-- Write facts of a job, unless it is gone: a job that expired must not come back as a key without an end.
-- KEYS job
-- ARGV per fact: name, value
-- -> 1 when they were written
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV))
return 1
