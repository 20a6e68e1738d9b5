-- include include/shard_record.lua
-- include include/ledger.lua
-- Create a job, unless its key already names one. Repeatable: the same id changes nothing. The key of an
-- inline job lives as long as its answer. A job that keeps files needs the reservation of their bytes: when that
-- lapsed, they may be gone.
-- KEYS job, jobs, recent, models, open, job_open, sweep, recent of its owner, ledger, key (if it has one)
-- ARGV id, spec, digest, model, due_ms, owner, inline_ttl_ms (0: not inline), bytes of its files ('': it keeps none),
--      then for an inline job sealed items, and per shard: range, file
-- -> {'made' | 'exists' | 'conflict' | 'lapsed', id}
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local id, spec, digest, model = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if redis.call('EXISTS', KEYS[1]) == 1 then return {'made', id} end
if KEYS[10] then
  local other = redis.call('GET', KEYS[10])
  if other then
    return {string.sub(other, 1, #digest) == digest and 'exists' or 'conflict',
            string.sub(other, #digest + 2)}
  end
end
if ARGV[8] ~= '' then
  local _, ends = held(redis.call('HGET', KEYS[9], id))
  if not ends or ends <= now then return {'lapsed', id} end
  redis.call('HSET', KEYS[1], 'input_bytes', ARGV[8])
  reckon(KEYS[9], KEYS[1], id)
end
if KEYS[10] then
  redis.call('SET', KEYS[10], digest .. ' ' .. id)
  if ARGV[7] ~= '0' then redis.call('PEXPIRE', KEYS[10], ARGV[7]) end
end
redis.call('HSET', KEYS[1], 'spec', spec, 'model', model, 'created_ms', now, 'began_ms', now, 'cursor', '',
           'sealed', '0', 'key', KEYS[10] or '', 't1', now, 'd1', 0, 't0', now, 'd0', 0)
if ARGV[6] ~= '' then redis.call('HSET', KEYS[1], 'owner', ARGV[6]) end
redis.call('ZADD', KEYS[2], now + ARGV[5], id)
redis.call('SADD', KEYS[4], model)
redis.call('ZREM', KEYS[7], id)  -- its files are a job's now
local ttl = tonumber(ARGV[7])
if ttl == 0 then
  for _, recent in ipairs({KEYS[3], KEYS[8]}) do
    redis.call('ZADD', recent, now, id)
    redis.call('ZREMRANGEBYRANK', recent, 0, -1001)
  end
else
  local items, files = tonumber(ARGV[9]), {}
  redis.call('HSET', KEYS[1], 'inline', ttl, 'sealed', '1', 'fed', items, 'total', items, 'lines', 1)
  for i = 10, #ARGV, 2 do
    write_record(KEYS[6], ARGV[i], {file = ARGV[i + 1]})
    redis.call('ZADD', KEYS[5], now, id .. '/' .. ARGV[i])
    table.insert(files, ARGV[i + 1])
  end
  redis.call('HSET', KEYS[1], 'payloads', table.concat(files, ' '))
end
return {'made', id}
