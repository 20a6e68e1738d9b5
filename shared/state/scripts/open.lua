-- include include/shard_record.lua
-- Open the shards that one feed step cut, and move the job's cursor: a compare-and-set, so two feeders
-- cannot both succeed. The cursor comes by the same places in the next round, so the round is compared too.
-- A cancelled job's shards are recorded as cancelled at once.
-- KEYS job, job_open, open, parts, jobs
-- ARGV id, old cursor, new cursor, sealed (1 | 0 | short: the rest was not read), lines, due_ms, low_water, round,
--      then per shard: start, end, file
-- -> {'opened', open shards of the job} | {'stale' | 'paused', 0}
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local id = ARGV[1]
if redis.call('HGET', KEYS[1], 'cursor') ~= ARGV[2] then return {'stale', 0} end
if tonumber(redis.call('HGET', KEYS[1], 'round') or 0) ~= tonumber(ARGV[8]) then return {'stale', 0} end
if redis.call('HEXISTS', KEYS[1], 'finished_ms') == 1 then return {'stale', 0} end
if redis.call('HGET', KEYS[1], 'sealed') == '1' then return {'stale', 0} end
if redis.call('HEXISTS', KEYS[1], 'paused') == 1 then return {'paused', 0} end
local cancelled = redis.call('HEXISTS', KEYS[1], 'cancel') == 1
local items = 0
for i = 9, #ARGV, 3 do
  local first, last, file = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local shard = first .. '-' .. last
  items = items + last - first
  if cancelled then
    redis.call('HSET', KEYS[4], first, last .. ' !' .. file)
    redis.call('HINCRBY', KEYS[1], 'cancelled', last - first)
  else
    write_record(KEYS[2], shard, {file = file})
    redis.call('ZADD', KEYS[3], now, id .. '/' .. shard)
  end
end
local sealed = ARGV[4] ~= '0' and '1' or '0'
if ARGV[4] == 'short' then redis.call('HSET', KEYS[1], 'cut_short', ARGV[3]) end
redis.call('HSET', KEYS[1], 'cursor', ARGV[3], 'sealed', sealed, 'low_water', ARGV[7])
redis.call('HDEL', KEYS[1], 'waiting_for', 'waiting_since', 'waiting_again', 'waiting_until', 'waiting_workers', 'unreadable')
redis.call('HINCRBY', KEYS[1], 'lines', ARGV[5])
local fed = redis.call('HINCRBY', KEYS[1], 'fed', items)
if sealed == '1' then redis.call('HSET', KEYS[1], 'total', fed) end
redis.call('ZADD', KEYS[5], now + ARGV[6], id)
return {'opened', redis.call('HLEN', KEYS[2])}
