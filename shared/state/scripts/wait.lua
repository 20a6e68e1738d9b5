-- Record that a job waits for a storage that cannot be used, from when on, and when it is tried again. Patience
-- has an end where the storage refuses (ARGV patience_ms): counted from the first refusal that no commit, cut or
-- answer of another kind followed. Workers must agree: as many as ARGV witnesses met it.
-- KEYS job
-- ARGV reason, patience_ms (0: without end), shortest and longest delay_ms, worker or '', witnesses
-- -> {1 when the patience is over, ms until it is tried again}
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local job = redis.call('HMGET', KEYS[1], 'spec', 'finished_ms', 'waiting_since', 'waiting_until', 'waiting_workers')
local shortest, longest = tonumber(ARGV[3]), tonumber(ARGV[4])
if not job[1] or job[2] then return {0, shortest} end
local since, patience = tonumber(job[3] or now), tonumber(ARGV[2])
local delay = math.max(math.min(now - since, longest), shortest)
redis.call('HSET', KEYS[1], 'waiting_for', ARGV[1], 'waiting_since', since, 'waiting_again', now + delay)
if patience == 0 then
  redis.call('HDEL', KEYS[1], 'waiting_until', 'waiting_workers')
  return {0, delay}
end
local until_ms, workers, count = tonumber(job[4] or now + patience), {}, 0
for id in string.gmatch((job[5] or '') .. ' ' .. ARGV[5], '%S+') do
  if not workers[id] and count < 9 then workers[id], count = true, count + 1 end
end
local ids = {}
for id in pairs(workers) do ids[#ids + 1] = id end
redis.call('HSET', KEYS[1], 'waiting_until', until_ms, 'waiting_workers', table.concat(ids, ' '))
return {now >= until_ms and count >= tonumber(ARGV[6]) and 1 or 0, delay}
