"""Time that passes for everything in Redis at once, without waiting.

The scripts use the server's clock, which no test can set. So everything that was written is made
older instead: each due time, each end of a lease, each time to live.
"""

from __future__ import annotations

import redis

SHIFT = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local prefix, ms = ARGV[1], ARGV[2] - (now - ARGV[3])
local function is_time(name)
  return name == 'step_until' or name == 'sweeping_until' or string.sub(name, -3) == '_ms'
end
for _, key in ipairs(redis.call('KEYS', prefix .. ':*')) do
  local name = string.sub(key, #prefix + 2)
  local kind = redis.call('TYPE', key).ok
  if kind == 'zset' and name ~= 'stats' then
    local all = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
    for i = 1, #all, 2 do redis.call('ZADD', key, all[i + 1] - ms, all[i]) end
  elseif name == 'amnesty' or name == 'pulse' then
    redis.call('SET', key, redis.call('GET', key) - ms)
  elseif string.match(name, '^job:[^:]+$') then
    local all = redis.call('HGETALL', key)
    for i = 1, #all, 2 do
      if is_time(all[i]) then redis.call('HSET', key, all[i], all[i + 1] - ms) end
    end
  end
  local left = redis.call('PTTL', key)
  if left >= 0 then
    if left - ms <= 0 then redis.call('DEL', key) else redis.call('PEXPIRE', key, left - ms) end
  end
end
if ARGV[4] == '1' then redis.call('SET', prefix .. ':pulse', now) end
return now
"""


class ServerTime:
    """The time of one server under a prefix, which moves only as it is told."""

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        self._prefix = prefix
        self._shift = client.register_script(SHIFT)
        seconds, micros = client.time()
        self.now_ms = int(seconds * 1000 + micros // 1000)
        """When it was moved last, by the server's clock."""

    def move(self, ms: int, *, pulsing: bool) -> None:
        """Let `ms` pass since the last move, however long that really was; `pulsing`: a coordinator
        lives all the while."""
        self.now_ms = self._shift(args=[self._prefix, ms, self.now_ms, int(pulsing)])
