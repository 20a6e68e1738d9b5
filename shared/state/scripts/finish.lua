-- include include/ledger.lua
-- End a job whose output is published. Only the holder of its step may.
-- KEYS job, jobs, job_open, parts, sweep, ledger, key (if it has one)
-- ARGV id, token, output, ttl_ms, parts_ttl_ms, channel, bytes of the output in the storage
-- -> 1 when the job is ended (now or before)
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
if redis.call('HEXISTS', KEYS[1], 'finished_ms') == 1 then return 1 end
if redis.call('HGET', KEYS[1], 'step_token') ~= ARGV[2] then return 0 end
if redis.call('HGET', KEYS[1], 'sealed') ~= '1' or redis.call('HLEN', KEYS[3]) > 0 then return 0 end
redis.call('HSET', KEYS[1], 'finished_ms', now, 'output', ARGV[3])
redis.call('HDEL', KEYS[1], 'step_token', 'step_until', 'publishing', 'unreadable', 'lost_ms', 'waiting_for',
           'waiting_since', 'waiting_again', 'waiting_until', 'waiting_workers')
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
if KEYS[7] then redis.call('PEXPIRE', KEYS[7], ARGV[4]) end
redis.call('HINCRBY', KEYS[1], 'output_bytes', ARGV[7])
reckon(KEYS[6], KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[4], ARGV[5] + 1000)
redis.call('ZADD', KEYS[5], now + ARGV[5], ARGV[1])
redis.call('PUBLISH', ARGV[6], ARGV[1])
return 1
