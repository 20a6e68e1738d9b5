-- include include/shard_record.lua
-- Renew all leases of one worker in one call.
-- KEYS per lease: job, job_open, open
-- ARGV lease_ms, then per lease: id, range, token
-- -> per lease 'ok' | 'lost' | 'cancelled' | 'paused'
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local answers = {}
for i = 1, #KEYS / 3 do
  local id, shard, token = ARGV[3 * i - 1], ARGV[3 * i], ARGV[3 * i + 1]
  local text = redis.call('HGET', KEYS[3 * i - 1], shard)
  local flags = redis.call('HMGET', KEYS[3 * i - 2], 'cancel', 'paused')
  if flags[1] then answers[i] = 'cancelled'
  elseif not text then answers[i] = 'lost'
  elseif flags[2] then answers[i] = 'paused'
  elseif read_record(text).token ~= token then answers[i] = 'lost'
  else
    redis.call('ZADD', KEYS[3 * i], now + ARGV[1], id .. '/' .. shard)
    answers[i] = 'ok'
  end
end
return answers
