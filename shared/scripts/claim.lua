-- Lease a shard. A lease that ran out makes it a suspect, which only a worker that holds nothing else
-- may claim; dying with it alone blames the shard. Outages blame nobody.
-- Repeatable: the same token gets the same answer.
-- KEYS job, job_open, open, pulse, amnesty
-- ARGV id, range, token, worker, alone (1 | 0), lease_ms, fingerprint, outage_ms
-- -> {'yes' | 'poison', file, ms from due to claimed} | {'done' | 'busy' | 'paused' | 'cancelled' | 'newer' | 'suspect' | 'split'}
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local id, shard, token = ARGV[1], ARGV[2], ARGV[3]
local found = redis.call('HGET', KEYS[2], shard)
if not found then
  redis.call('ZREM', KEYS[3], id .. '/' .. shard)
  return {'done'}
end
local job = redis.call('HMGET', KEYS[1], 'cancel', 'paused', 'fingerprint')
if job[1] then return {'cancelled'} end
if job[2] then return {'paused'} end
local member = id .. '/' .. shard
local state = cjson.decode(found)
local due = tonumber(redis.call('ZSCORE', KEYS[3], member) or now)
if job[3] and job[3] ~= ARGV[7] then  -- asked about again later: who can serve it may come
  if due <= now then redis.call('ZADD', KEYS[3], now + ARGV[6], member) end
  return {'newer'}
end
if state.t and state.t ~= token then
  if due > now then return {'busy'} end
  local pulse = tonumber(redis.call('GET', KEYS[4]) or 0)
  local amnesty = tonumber(redis.call('GET', KEYS[5]) or 0)
  if due > amnesty and now - pulse < tonumber(ARGV[8]) then
    state.s = 1
    if state.a then state.d = (state.d or 0) + 1 end
  end
  state.t, state.w, state.a = nil, nil, nil
  redis.call('HSET', KEYS[2], shard, cjson.encode(state))
  redis.call('ZADD', KEYS[3], now, member)
end
local answer = 'yes'
if state.s then
  local deaths = state.d or 0
  local first, last = string.match(shard, '(%d+)-(%d+)')
  if deaths >= 1 and last - first > 1 then return {'split'} end
  if deaths >= 2 then answer = 'poison'
  elseif ARGV[5] ~= '1' then return {'suspect'} end
  state.a = 1
end
redis.call('HSETNX', KEYS[1], 'fingerprint', ARGV[7])
if state.t ~= token then state.c, state.q = now, math.max(now - due, 0) end
state.t, state.w = token, ARGV[4]
redis.call('HSET', KEYS[2], shard, cjson.encode(state))
redis.call('ZADD', KEYS[3], now + ARGV[6], member)
return {answer, state.f, state.q or 0}
