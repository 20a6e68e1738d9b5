-- include include/shard_record.lua
-- Put a paused job's shards back; leases from before the pause are void and blame no shard. By itself a job
-- resumes only when that is due, and has no patience left: what made it wait pauses it again at once.
-- KEYS job, job_open, open, jobs
-- ARGV id, by_itself (1 | 0)
-- -> {'resumed' | 'running' | 'finished' | 'gone' | 'early', range...}
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local job = redis.call('HMGET', KEYS[1], 'spec', 'finished_ms', 'paused', 'resumes_at')
if not job[1] then return {'gone'} end
if job[2] then return {'finished'} end
if not job[3] then return {'running'} end
if ARGV[2] ~= '1' then redis.call('HDEL', KEYS[1], 'waiting_for', 'waiting_since', 'waiting_again', 'waiting_until', 'waiting_workers')
elseif not job[4] or tonumber(job[4]) > now then return {'early'} end
redis.call('HDEL', KEYS[1], 'paused', 'unreadable', 'resumes_at')
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
