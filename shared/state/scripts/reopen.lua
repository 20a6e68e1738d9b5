-- include include/shard_record.lua
-- Open a committed shard again whose part is lost; that of a cancelled job is recorded as cancelled. Its items
-- are counted already: the next commit counts none of them. Only the holder of the job's step may. Repeatable.
-- KEYS job, job_open, open, parts
-- ARGV id, token, start, end, part, file
-- -> 1 when it is open, or recorded as cancelled
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local id, first, last, file = ARGV[1], ARGV[3], ARGV[4], ARGV[6]
local shard = first .. '-' .. last
if redis.call('HGET', KEYS[1], 'step_token') ~= ARGV[2] then return 0 end
if redis.call('HGET', KEYS[4], first) ~= last .. ' ' .. ARGV[5] then return redis.call('HEXISTS', KEYS[2], shard) end
redis.call('HSET', KEYS[1], 'reopened', 1)
redis.call('HDEL', KEYS[1], 'lost_ms', 'waiting_for')
if redis.call('HEXISTS', KEYS[1], 'cancel') == 1 then
  redis.call('HSET', KEYS[4], first, last .. ' !' .. file)
  return 1
end
redis.call('HDEL', KEYS[4], first)
write_record(KEYS[2], shard, {file = file, counted = 1})
redis.call('ZADD', KEYS[3], now, id .. '/' .. shard)
return 1
