-- include include/ledger.lua
-- Count an upload that is complete among those that expire at the same time, and end its reservation.
-- KEYS ledger
-- ARGV id, when it expires, bytes
-- -> 'kept' | 'lapsed' | 'none': there is no such reservation (any more)
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local _, ends = held(redis.call('HGET', KEYS[1], ARGV[1]))
if not ends then return 'none' end
if ends <= now then return 'lapsed' end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HINCRBY', KEYS[1], ARGV[2], ARGV[3])
return 'kept'
