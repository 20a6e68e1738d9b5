-- include include/shard_record.lua
-- Replace a shard that killed its worker by its two halves, both suspects. Of a paused job they wait for the
-- resume. Repeatable.
-- KEYS job_open, open
-- ARGV id, start, middle, end
-- -> 1 when it was replaced
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local id, first, middle, last = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local shard = first .. '-' .. last
local text = redis.call('HGET', KEYS[1], shard)
if not text then return 0 end
local record = read_record(text)
if record.token or (record.deaths or 0) < 1 then return 0 end
redis.call('HDEL', KEYS[1], shard)
local waits = redis.call('ZREM', KEYS[2], id .. '/' .. shard) == 1
for _, half in ipairs({first .. '-' .. middle, middle .. '-' .. last}) do
  write_record(KEYS[1], half, {file = record.file, suspect = 1, counted = record.counted})
  if waits then redis.call('ZADD', KEYS[2], now, id .. '/' .. half) end
end
return 1
