-- Tells which entries of the schedule are due. Called by Queue.DueEntries.
--
-- KEYS[1] cron  [2] room
-- ARGV[1] entries at most
--
-- Returns {now, when the first entry is due in ms or '', name, due time in ms, ...}: those that are due.
local entries, limit = KEYS[1], ARGV[1]

local now = clock()
local first = redis.call('ZRANGE', entries, 0, 0, 'WITHSCORES')
local reply = { now, digits(first[2]) }
if first[2] and decimal(first[2]) <= tonumber(now) then
  local due = redis.call('ZRANGEBYSCORE', entries, '-inf', now, 'WITHSCORES', 'LIMIT', 0, limit)
  for i = 1, #due, 2 do
    reply[#reply + 1], reply[#reply + 2] = due[i], digits(due[i + 1])
  end
end
return reply
