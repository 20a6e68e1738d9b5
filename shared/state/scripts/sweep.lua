-- Begin to remove a finished job's files; meanwhile it cannot be retried.
-- KEYS job, sweep
-- ARGV id, lease_ms
-- -> for how many ms the job is still kept, or 0: it is gone, or -1: it was reopened
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
if redis.call('HEXISTS', KEYS[1], 'finished_ms') == 0 then
  redis.call('ZREM', KEYS[2], ARGV[1])
  return -1
end
redis.call('HSET', KEYS[1], 'sweeping_until', now + ARGV[2])
return math.max(redis.call('PTTL', KEYS[1]), 1)
