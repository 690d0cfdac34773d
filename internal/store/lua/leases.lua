-- Tells what monitors look at, from one node and by its clock. Called by Queue.Leases.
--
-- KEYS[1] runners  [2] scheduled  [3] room
--
-- Returns {now, due time of the next scheduled task or timer in ms or '', runner ID, lease end in ms, ...}.
local runners, scheduled = KEYS[1], KEYS[2]

local found = redis.call('ZRANGE', runners, 0, -1, 'WITHSCORES')
local reply = { clock(), earliest(scheduled) }
for i = 1, #found, 2 do
  reply[i + 2], reply[i + 3] = found[i], digits(found[i + 1])
end
return reply
