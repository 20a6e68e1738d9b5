-- include include/shard_record.lua
-- End the lease of a worker that is known to be gone, as if it had run out now: nothing else changes.
-- KEYS job_open, open
-- ARGV id, range, worker
-- -> 1 when that worker held it
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local member = ARGV[1] .. '/' .. ARGV[2]
local text = redis.call('HGET', KEYS[1], ARGV[2])
if not text or not redis.call('ZSCORE', KEYS[2], member) then return 0 end
local record = read_record(text)
if not record.token or record.worker ~= ARGV[3] then return 0 end
redis.call('ZADD', KEYS[2], now, member)
return 1
