-- End the removal of a job's files, and set when it is repeated (0: never).
-- KEYS job, sweep, recent, ledger
-- ARGV id, again_ms
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HDEL', KEYS[1], 'sweeping_until')
elseif tonumber(ARGV[2]) == 0 then
  redis.call('ZREM', KEYS[3], ARGV[1])
  redis.call('HDEL', KEYS[4], ARGV[1])
end
if tonumber(ARGV[2]) == 0 then return redis.call('ZREM', KEYS[2], ARGV[1]) end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
return redis.call('ZADD', KEYS[2], 'XX', now + ARGV[2], ARGV[1])
