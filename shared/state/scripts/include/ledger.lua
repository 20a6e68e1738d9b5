-- What the storage holds of one kind: a hash with the bytes
--   of each job, by its id, as its record has them
--   of uploads, by when they expire (shared/state/ledger.py)
--   of what is still being written, by its id, as "bytes until": reserved until then, in ms
local FACTS = {'input_bytes', 'lines_bytes', 'work_bytes', 'output_bytes'}
local function held(text)
  local bytes, ends = string.match(text or '', '^(%d+) ?(%d*)$')
  return tonumber(bytes), tonumber(ends)
end
local function all_but(ledger, id)
  local sum = 0
  local all = redis.call('HGETALL', ledger)
  for i = 1, #all, 2 do
    if all[i] ~= id then sum = sum + (held(all[i + 1]) or 0) end
  end
  return sum
end
local function reckon(ledger, job, id)
  local sum = 0
  for _, bytes in ipairs(redis.call('HMGET', job, unpack(FACTS))) do sum = sum + (tonumber(bytes) or 0) end
  redis.call('HSET', ledger, id, string.format('%d', sum))
end
