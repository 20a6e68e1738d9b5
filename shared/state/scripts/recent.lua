-- The newest jobs of a list, the newest first, without those that are gone: of the list of an owner nothing
-- takes them out but newer ones. Changes nothing.
-- KEYS recent (of all or of an owner)
-- ARGV count, what the key of a job begins with
-- -> ids
local found, count = {}, tonumber(ARGV[1])
for _, id in ipairs(redis.call('ZREVRANGE', KEYS[1], 0, -1)) do  -- it is bounded
  if #found == count then break end
  if redis.call('EXISTS', ARGV[2] .. id) == 1 then table.insert(found, id) end
end
return found
