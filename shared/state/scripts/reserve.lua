-- include include/ledger.lua
-- Reserve bytes of the storage for a job or an upload that is being written, before they are, or renew that. A
-- job's files may be removed when it lapses. Repeatable.
-- KEYS ledger, sweep (of a job)
-- ARGV id, bytes, lease_ms, bytes_max (0: no limit), begins (1 | 0)
-- -> {'reserved' | 'full' | 'lapsed', bytes of all others}
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local id, bytes, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[4])
local before, ends = held(redis.call('HGET', KEYS[1], id))
if before and (not ends or ends <= now) or not before and ARGV[5] ~= '1' then return {'lapsed', 0} end
local others = all_but(KEYS[1], id)
if most > 0 and (not before or bytes > before) and (others >= most or others + bytes > most) then
  return {'full', others}
end
redis.call('HSET', KEYS[1], id, string.format('%d %d', bytes, now + ARGV[3]))
if KEYS[2] then redis.call('ZADD', KEYS[2], now + ARGV[3], id) end
return {'reserved', others}
