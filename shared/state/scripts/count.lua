-- include include/ledger.lua
-- Change how many bytes a job keeps in the storage, and bring the ledger in line with its record. What is
-- neither a job nor still to be removed leaves the ledger.
-- KEYS job, ledger, sweep
-- ARGV id, then per change: fact, 'add' | 'set', bytes
if redis.call('HEXISTS', KEYS[1], 'spec') == 0 then
  if not redis.call('ZSCORE', KEYS[3], ARGV[1]) then redis.call('HDEL', KEYS[2], ARGV[1]) end
  return 0
end
if redis.call('HEXISTS', KEYS[1], 'inline') == 1 then return 0 end
for i = 2, #ARGV, 3 do
  redis.call(ARGV[i + 1] == 'add' and 'HINCRBY' or 'HSET', KEYS[1], ARGV[i], ARGV[i + 2])
end
reckon(KEYS[2], KEYS[1], ARGV[1])
return 1
