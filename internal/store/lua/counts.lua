-- Counts a queue's tasks by state. Called by Queue.Counts.
--
-- KEYS[1] wait  [2] scheduled  [3] runners  [4] counters  [5] room
-- ARGV[1] base, `P:{Q}:`
--
-- Returns {waiting, scheduled, running, ENDED, ERROR, EXCEPTION, STOPPED, kept, counters}; a key of the wrong type counts -1.
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
local reply = { count('LLEN', wait), count('ZCARD', scheduled), running }
for _, index in ipairs({ 'ENDED', 'ERROR', 'EXCEPTION', 'STOPPED', 'kept' }) do
  reply[#reply + 1] = count('ZCARD', base .. 'final:' .. index)
end
reply[#reply + 1] = failed(found) and {} or found
return reply
