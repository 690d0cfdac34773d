-- Counts a queue's tasks by state. Called by Queue.Counts.
--
-- KEYS[1] wait  [2] scheduled  [3] runners  [4] counters  [5] room
-- ARGV[1] base, `P:{Q}:`
--
-- Returns {waiting, scheduled, running, ENDED, ERROR, EXCEPTION, STOPPED, kept, counters, paused (1 or 0), held}; a key of the wrong type counts -1.
local wait, scheduled, runners, counters = unpack(KEYS)
local base = ARGV[1]

local function count(command, key)
  local n = try(command, key)
  return failed(n) and -1 or n
end

local running = 0
local ids = try('ZRANGE', runners, 0, -1)
if failed(ids) then
  running = -1
else
  for _, id in ipairs(ids) do
    running = running + math.max(0, count('SCARD', base .. 'running:' .. id))
  end
end
local found = try('HGETALL', counters)
local waiting = count('LLEN', wait)
local ends = waiting > 0 and redis.call('LRANGE', wait, -2, -1) or {}
for _, id in ipairs(ends) do -- what wakes a runner for the lines beside is no task
  waiting = waiting - (id == '' and 1 or 0)
end
for _, line in ipairs({ ':high', ':low' }) do
  waiting = waiting + math.max(0, count('LLEN', wait .. line))
end
local reply = { waiting, count('ZCARD', scheduled), running }
for _, index in ipairs({ 'ENDED', 'ERROR', 'EXCEPTION', 'STOPPED', 'kept' }) do
  reply[#reply + 1] = count('ZCARD', base .. 'final:' .. index)
end
reply[#reply + 1] = failed(found) and {} or found
reply[#reply + 1] = try('EXISTS', base .. 'paused')
-- Each line of tasks that are held back has a timer; in those of a key, the first is in line or runs.
local held, lines = 0, try('ZRANGE', base .. 'timers', 0, 9999)
for _, line in ipairs(failed(lines) and {} or lines) do
  held = held + math.max(0, count('ZCARD', base .. line) - (string.sub(line, 1, 6) == 'order:' and 1 or 0))
end
reply[#reply + 1] = failed(lines) and -1 or held
return reply
