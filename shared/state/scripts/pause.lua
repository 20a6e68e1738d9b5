-- include include/shard_record.lua
-- Take a job's shards out of the open set. Leased shards may still be committed. A cancelled job is paused
-- only by its last step, when its output cannot be written.
-- KEYS job, job_open, open
-- ARGV id, reason, even_cancelled (1 | 0), range and token of the caller's lease, or '', resumes_ms (0: only a person resumes it)
-- -> 'paused' | 'finished' | 'gone' | 'cancelled' | 'lost' (the lease is over: what failed there no longer matters)
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local job = redis.call('HMGET', KEYS[1], 'spec', 'finished_ms', 'cancel')
if not job[1] then return 'gone' end
if job[2] then return 'finished' end
if job[3] and ARGV[3] ~= '1' then return 'cancelled' end
if ARGV[4] ~= '' then
  local text = redis.call('HGET', KEYS[2], ARGV[4])
  if not text or read_record(text).token ~= ARGV[5] then return 'lost' end
end
redis.call('HSET', KEYS[1], 'paused', ARGV[2])
if ARGV[6] == '0' then redis.call('HDEL', KEYS[1], 'resumes_at')
else redis.call('HSET', KEYS[1], 'resumes_at', now + ARGV[6]) end
for _, shard in ipairs(redis.call('HKEYS', KEYS[2])) do
  redis.call('ZREM', KEYS[3], ARGV[1] .. '/' .. shard)
end
return 'paused'
