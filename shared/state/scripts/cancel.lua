-- include include/shard_record.lua
-- Stop a job: what was scored is kept, the rest is recorded as cancelled. Repeatable.
-- KEYS job, job_open, open, parts, jobs, key (if it has one)
-- ARGV id
-- -> {'cancelled' | 'finished' | 'gone', sealed, payloads of an inline job that ended with it}
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local job = redis.call('HMGET', KEYS[1], 'spec', 'finished_ms', 'sealed', 'inline', 'payloads', 'cancel')
if not job[1] then return {'gone', 0, ''} end
if job[2] then return {job[4] and job[6] and 'cancelled' or 'finished', 1, job[5] or ''} end
redis.call('HSET', KEYS[1], 'cancel', '1')
redis.call('HDEL', KEYS[1], 'paused', 'resumes_at', 'waiting_for', 'waiting_since', 'waiting_again', 'waiting_until', 'waiting_workers')
local all = redis.call('HGETALL', KEYS[2])
for i = 1, #all, 2 do
  local first, last = string.match(all[i], '(%d+)-(%d+)')
  local record = read_record(all[i + 1])
  redis.call('HSET', KEYS[4], first, last .. ' !' .. record.file)
  if not record.counted then redis.call('HINCRBY', KEYS[1], 'cancelled', last - first) end
  redis.call('ZREM', KEYS[3], ARGV[1] .. '/' .. all[i])
end
redis.call('DEL', KEYS[2])
if job[4] then  -- an inline job has no finish step: it ends here
  redis.call('HSET', KEYS[1], 'finished_ms', now)
  redis.call('ZREM', KEYS[5], ARGV[1])
  redis.call('PEXPIRE', KEYS[1], job[4])
  redis.call('PEXPIRE', KEYS[4], job[4])
  -- it has no answer: a repeated request starts anew
  local own = KEYS[6] and redis.call('GET', KEYS[6])
  if own and string.sub(own, -#ARGV[1]) == ARGV[1] then redis.call('DEL', KEYS[6]) end
else
  redis.call('ZADD', KEYS[5], now, ARGV[1])
end
return {'cancelled', tonumber(job[3]), job[5] or ''}
