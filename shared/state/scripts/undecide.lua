-- Let another attempt publish, since the drafts of the one that was decided are gone. Repeatable.
-- KEYS job
-- ARGV token of the caller's step, attempt
if redis.call('HGET', KEYS[1], 'step_token') ~= ARGV[1] then return 0 end
if redis.call('HGET', KEYS[1], 'publishing') ~= ARGV[2] then return 0 end
return redis.call('HDEL', KEYS[1], 'publishing')
