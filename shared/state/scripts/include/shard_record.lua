-- The record of an open shard: JSON in the hash {p}:job:{id}:open under its range.
--   file        URI of the shard file that describes its items
--   token       of the lease, while there is one; two claims never have the same
--   worker      id of the worker that holds the lease
--   claimed_ms  server time of the claim
--   queued_ms   from when it was due until it was claimed
--   suspect     1: a lease on it ran out, so a worker claims it only while it holds nothing else
--   alone       1: its worker holds nothing else, so a death is its own
--   deaths      how many workers died with it alone
--   counted     1: its items are among the job's counts: it was committed before, and its part lost
-- Version 0.1 wrote one letter per field. Its records are read until 0.3.
local OLD_NAMES = {f = 'file', t = 'token', w = 'worker', c = 'claimed_ms', q = 'queued_ms',
                   s = 'suspect', a = 'alone', d = 'deaths'}
local function read_record(text)
  local record = {file = ''}  -- of what is no record: its worker pauses the job and says so
  local is_json, fields = pcall(cjson.decode, text)
  if not is_json or type(fields) ~= 'table' then return record end
  for name, value in pairs(fields) do record[OLD_NAMES[name] or name] = value end
  return record
end
local function write_record(key, shard, record)
  redis.call('HSET', key, shard, cjson.encode(record))
end
local function drop_lease(record)
  record.token, record.worker, record.alone = nil, nil, nil
end
