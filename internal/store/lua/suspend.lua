-- Pauses an entry of the schedule, resumes it, or takes it out because it is bad. Called by Queue.Suspend.
--
-- KEYS[1] cron  [2] cron:NAME  [3] room
-- ARGV[1] base, `P:{Q}:`  [2] name  [3] field that says why it does not fire: paused or error; '' if it shall  [4] its value
-- ARGV[5] if it shall: when it fires next, ms  [6] when it is due, as it was seen: nothing is done if that has changed; '' whenever
--
-- Returns 1, or 0 if there is no such entry.
local entries, entry = KEYS[1], KEYS[2]
local base, name, field, value, following, seen = unpack(ARGV)

make_room()
if redis.call('EXISTS', entry) == 0 then
  redis.call('ZREM', entries, name)
  return 0
end
if seen ~= '' and digits(redis.call('ZSCORE', entries, name)) ~= seen then
  return 1
end
if field ~= '' then
  redis.call('HSET', entry, field, value)
  redis.call('HDEL', entry, 'next_at')
  redis.call('ZADD', entries, NEVER, name)
  return 1
end
redis.call('HDEL', entry, 'paused', 'error')
redis.call('HSET', entry, 'next_at', following, 'timed', redis.call('HGET', entry, 'schedule') or '')
redis.call('ZADD', entries, following, name)
redis.call('PUBLISH', base .. 'control:', 'due ' .. following)
return 1
