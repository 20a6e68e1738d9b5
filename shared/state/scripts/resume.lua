-- include include/shard_record.lua
-- Put a paused job's shards back; leases from before the pause are void and blame no shard.
-- KEYS job, job_open, open, jobs
-- ARGV id
-- -> {'resumed' | 'running' | 'finished' | 'gone', range...}
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local job = redis.call('HMGET', KEYS[1], 'spec', 'finished_ms', 'paused')
if not job[1] then return {'gone'} end
if job[2] then return {'finished'} end
if not job[3] then return {'running'} end
redis.call('HDEL', KEYS[1], 'paused', 'unreadable')
redis.call('ZADD', KEYS[4], now, ARGV[1])
local answer = {'resumed'}
local all = redis.call('HGETALL', KEYS[2])
for i = 1, #all, 2 do
  local record = read_record(all[i + 1])
  drop_lease(record)
  write_record(KEYS[2], all[i], record)
  redis.call('ZADD', KEYS[3], now, ARGV[1] .. '/' .. all[i])
  answer[#answer + 1] = all[i]
end
return answer
