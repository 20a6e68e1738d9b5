-- Reopen a finished job for what failed, or was never cut. Its scores stay; the rest is fed again. Repeatable:
-- a job that is one round further than its caller knows is reopened already.
-- KEYS job, jobs, parts, sweep, recent, recent of its owner, key (if it has one)
-- ARGV id, only, round as the caller knows it
-- -> 'reopened' | 'unfinished' | 'gone' | 'nothing' | 'sweeping'
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local job = redis.call('HMGET', KEYS[1], 'spec', 'finished_ms', 'scored', 'errors', 'rejected',
                       'cancelled', 'output', 'sweeping_until', 'cut_short', 'round')
if not job[1] then return 'gone' end
if not job[2] then return tonumber(job[10] or 0) == ARGV[3] + 1 and 'reopened' or 'unfinished' end
if tonumber(job[8] or 0) > now then return 'sweeping' end
local failed = tonumber(job[4] or 0) + (ARGV[2] == 'errors' and 0 or tonumber(job[6] or 0))
if failed == 0 and not job[9] then return 'nothing' end
redis.call('HINCRBY', KEYS[1], 'round', 1)
local kept = tonumber(job[3] or 0) + tonumber(job[5] or 0)
local cancelled = ARGV[2] == 'errors' and tonumber(job[6] or 0) or 0
kept = kept + cancelled
for _, name in ipairs(redis.call('HKEYS', KEYS[1])) do  -- the errors by their code are counted anew
  if string.sub(name, 1, 5) == 'code_' then redis.call('HDEL', KEYS[1], name) end
end
redis.call('HSET', KEYS[1], 'errors', 0, 'bad_lines', 0, 'cancelled', cancelled, 'cursor', '', 'sealed', '0',
           'fed', kept, 'lines', 0, 'base', kept, 'only', ARGV[2], 'previous', job[7], 't0', now, 't1', now,
           'd0', kept, 'd1', kept, 'began_ms', now)
-- what counts already when the parts of this round are counted (producer/coordinator/lost_parts.py)
redis.call('HSET', KEYS[1], 'scored_base', job[3] or 0, 'rejected_base', job[5] or 0, 'cancelled_base', cancelled)
redis.call('HDEL', KEYS[1], 'finished_ms', 'cancel', 'paused', 'total', 'output', 'cut_short', 'before', 'reopened',
           'resumes_at')
if job[9] then redis.call('HSET', KEYS[1], 'before', job[9]) end
redis.call('PERSIST', KEYS[1])
if KEYS[7] then redis.call('PERSIST', KEYS[7]) end
redis.call('DEL', KEYS[3])
redis.call('ZREM', KEYS[4], ARGV[1])
redis.call('ZADD', KEYS[2], now, ARGV[1])
redis.call('ZADD', KEYS[5], now, ARGV[1])
redis.call('ZADD', KEYS[6], now, ARGV[1])
return 'reopened'
