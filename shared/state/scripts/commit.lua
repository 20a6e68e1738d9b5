-- include include/shard_record.lua
-- Record a shard's part and add its counts. The first commit wins, whichever worker sends it; for a shard
-- that is not open, or whose file is another one (it was scored before a retry), nothing changes. Repeatable.
-- The counts are added to the job and to the present hour of the statistics whose keys begin as KEYS[7] on.
-- KEYS job, job_open, open, parts, jobs, stats, then stats:{kind}:{name}: of each kind
-- ARGV id, start, end, part, file, due_ms, channel, token, stats_ttl_ms, then per count: name, amount
-- -> {'committed' | 'late', feed is due, finish is due, payloads of an inline job that ended with it}
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local id, first, last, part = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local shard, committed = first .. '-' .. last, last .. ' ' .. part
local function count(key)
  for i = 10, #ARGV, 2 do redis.call('HINCRBY', key, ARGV[i], ARGV[i + 1]) end
end
local answer = 'late'
local text = redis.call('HGET', KEYS[2], shard)
local record = text and read_record(text)
if record and record.file == ARGV[5] then
  answer = 'committed'
  redis.call('HDEL', KEYS[2], shard)
  redis.call('ZREM', KEYS[3], id .. '/' .. shard)
  redis.call('HSET', KEYS[4], first, committed)
  if not record.counted then count(KEYS[1]) end
  local done = 0
  for _, total in ipairs(redis.call('HMGET', KEYS[1], 'scored', 'errors', 'rejected', 'cancelled')) do
    done = done + tonumber(total or 0)
  end
  -- two samples of (time, done), at least ten seconds apart, give the present rate
  local sample = redis.call('HMGET', KEYS[1], 't1', 'd1')
  if now - tonumber(sample[1] or now) > 10000 then
    redis.call('HSET', KEYS[1], 't0', sample[1], 'd0', sample[2], 't1', now, 'd1', done)
  end
  redis.call('HSET', KEYS[1], 'last_commit_ms', now)
  redis.call('HDEL', KEYS[1], 'waiting_for', 'waiting_since', 'waiting_again', 'waiting_until', 'waiting_workers')
  if redis.call('HEXISTS', KEYS[1], 'inline') == 0 then  -- an inline job keeps its deadline
    redis.call('ZADD', KEYS[5], 'XX', now + ARGV[6], id)
  end
  -- latency from claim to commit, if the lease is still the same: buckets as in shared/statistics.py
  local latency_ms = record.token == ARGV[8] and record.claimed_ms
                     and math.max(now - record.claimed_ms, 1)
  local hour = math.floor(now / 3600000)
  for i = 7, #KEYS do
    local key = KEYS[i] .. hour
    count(key)
    redis.call('HINCRBY', key, 'shards', 1)
    if latency_ms then
      redis.call('HINCRBY', key, 'latency_ms', latency_ms)
      redis.call('HINCRBY', key, 'latency_' .. math.floor(4 * math.log(latency_ms) / math.log(2)), 1)
    end
    redis.call('PEXPIRE', key, ARGV[9])
    redis.call('ZADD', KEYS[6], hour, KEYS[i])
  end
  redis.call('ZREMRANGEBYSCORE', KEYS[6], '-inf', hour - 25)
  redis.call('PEXPIRE', KEYS[6], ARGV[9])
elseif redis.call('HGET', KEYS[4], first) == committed then
  answer = 'committed'
end
local job = redis.call('HMGET', KEYS[1], 'sealed', 'low_water', 'inline', 'finished_ms', 'payloads')
local waiting = redis.call('HLEN', KEYS[2])
local finish = job[1] == '1' and waiting == 0 and not job[4]
local feed = job[1] == '0' and waiting <= tonumber(job[2] or 0)
local payloads = ''
if finish and job[3] then  -- an inline job ends here: the client that waits assembles the answer
  redis.call('HSET', KEYS[1], 'finished_ms', now)
  redis.call('ZREM', KEYS[5], id)
  redis.call('PEXPIRE', KEYS[1], job[3])
  redis.call('PEXPIRE', KEYS[4], job[3])
  redis.call('PUBLISH', ARGV[7], id)
  finish, payloads = false, job[5] or ''
end
return {answer, feed and 1 or 0, finish and 1 or 0, payloads}
