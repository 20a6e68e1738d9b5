-- include include/shard_record.lua
-- Lease a shard. A lease that expired makes it a suspect, which only a worker that holds nothing else may
-- claim; a death of such a worker is blamed on the shard. During outages nothing is blamed.
-- Repeatable: the same token gets the same answer.
-- KEYS job, job_open, open, pulse, amnesty, seen (leases that a death left)
-- ARGV id, range, token, worker, alone (1 | 0), lease_ms, fingerprint, outage_ms
-- -> {'yes' | 'poison', file, ms from due to claimed} | {'done' | 'busy' | 'paused' | 'cancelled' | 'newer' | 'suspect' | 'split'}
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local id, shard, token = ARGV[1], ARGV[2], ARGV[3]
local text = redis.call('HGET', KEYS[2], shard)
if not text then
  redis.call('ZREM', KEYS[3], id .. '/' .. shard)
  return {'done'}
end
local job = redis.call('HMGET', KEYS[1], 'cancel', 'paused', 'fingerprint')
if job[1] then return {'cancelled'} end
if job[2] then return {'paused'} end
local member = id .. '/' .. shard
local record = read_record(text)
local due = tonumber(redis.call('ZSCORE', KEYS[3], member) or now)
if record.token and record.token ~= token and due <= now then  -- that lease ran out
  local pulse = tonumber(redis.call('GET', KEYS[4]) or 0)
  local amnesty = tonumber(redis.call('GET', KEYS[5]) or 0)
  if due > amnesty and now - pulse < tonumber(ARGV[8]) then
    record.suspect = 1
    if redis.call('INCR', KEYS[6]) == 1 then redis.call('EXPIRE', KEYS[6], 3600) end
    if record.alone then record.deaths = (record.deaths or 0) + 1 end
  end
  drop_lease(record)
  write_record(KEYS[2], shard, record)
  redis.call('ZADD', KEYS[3], now, member)
end
if job[3] and job[3] ~= ARGV[7] then  -- due again later: a worker with the right weights may come
  if due <= now then redis.call('ZADD', KEYS[3], now + ARGV[6], member) end
  redis.call('HSET', KEYS[1], 'newer_ms', now)
  return {'newer'}
end
if record.token and record.token ~= token then return {'busy'} end
local answer = 'yes'
if record.suspect then
  local deaths = record.deaths or 0
  local first, last = string.match(shard, '(%d+)-(%d+)')
  if deaths >= 1 and last - first > 1 then return {'split'} end
  if deaths >= 2 then answer = 'poison'
  elseif ARGV[5] ~= '1' then  -- the caller comes again once it holds nothing: meanwhile nobody need be sent
    redis.call('ZADD', KEYS[3], now + ARGV[6], member)
    return {'suspect'}
  end
  record.alone = 1
end
redis.call('HSETNX', KEYS[1], 'fingerprint', ARGV[7])
if record.token ~= token then record.claimed_ms, record.queued_ms = now, math.max(now - due, 0) end
record.token, record.worker = token, ARGV[4]
write_record(KEYS[2], shard, record)
redis.call('ZADD', KEYS[3], now + ARGV[6], member)
return {answer, record.file, record.queued_ms or 0}
