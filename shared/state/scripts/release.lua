-- include include/shard_record.lua
-- Release a shard at once: it is not blamed for a drain or a preemption.
-- KEYS job_open, open
-- ARGV id, range, token
-- -> 1 when it is free again
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local text = redis.call('HGET', KEYS[1], ARGV[2])
if not text then return 0 end
local record = read_record(text)
if record.token ~= ARGV[3] then return 0 end
drop_lease(record)
write_record(KEYS[1], ARGV[2], record)
if redis.call('ZSCORE', KEYS[2], ARGV[1] .. '/' .. ARGV[2]) then
  redis.call('ZADD', KEYS[2], now, ARGV[1] .. '/' .. ARGV[2])
end
return 1
