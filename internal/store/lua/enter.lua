-- Writes an entry of the schedule, in the place of one that has its name: that one's pause and last run stay, and if the times are the same,
-- when it fires next. Called by Queue.Enter.
--
-- KEYS[1] cron  [2] cron:NAME  [3] room
-- ARGV[1] base, `P:{Q}:`  [2] name  [3] when it fires next, ms  then field, value, ... of all that an entry may have, '' for none
--
-- Returns 1 if something has changed.
local entries, entry = KEYS[1], KEYS[2]
local base, name, following = ARGV[1], ARGV[2], ARGV[3]

local old, changed = {}, false
local found = redis.call('HGETALL', entry)
for i = 1, #found, 2 do
  old[found[i]] = found[i + 1]
end
for i = 4, #ARGV, 2 do
  local field, value = ARGV[i], ARGV[i + 1]
  if value ~= (old[field] or '') then
    changed = true
    if value == '' then
      redis.call('HDEL', entry, field)
    else
      redis.call('HSET', entry, field, value)
    end
  end
end
local times = { schedule = true, zone = true }
local moved = old.error or not redis.call('ZSCORE', entries, name)
for i = 4, #ARGV, 2 do
  moved = moved or times[ARGV[i]] and ARGV[i + 1] ~= (old[ARGV[i]] or '')
end
if moved and (old.paused or '') == '' then
  changed = true
  redis.call('HDEL', entry, 'error')
  redis.call('HSET', entry, 'next_at', following, 'timed', redis.call('HGET', entry, 'schedule'))
  redis.call('ZADD', entries, following, name)
end
if (old.paused or '') ~= '' then
  redis.call('ZADD', entries, NEVER, name)
end
if changed then
  redis.call('PUBLISH', base .. 'control:', 'due ' .. following)
end
return changed and 1 or 0
