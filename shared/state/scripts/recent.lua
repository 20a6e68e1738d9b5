-- The newest jobs of a list, the newest first. Those that are gone are taken out on the way: nothing else
-- does that for the list of an owner.
-- KEYS recent (of all or of an owner)
-- ARGV count, what the key of a job begins with
-- -> ids
local found, at = {}, 0
while #found < tonumber(ARGV[1]) do
  local ids = redis.call('ZREVRANGE', KEYS[1], at, at + ARGV[1] - 1)
  if #ids == 0 then break end
  for _, id in ipairs(ids) do
    if redis.call('EXISTS', ARGV[2] .. id) == 0 then redis.call('ZREM', KEYS[1], id)
    else
      at = at + 1
      if #found < tonumber(ARGV[1]) then table.insert(found, id) end
    end
  end
end
return found
