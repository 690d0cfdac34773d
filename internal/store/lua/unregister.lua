-- Gives up a runner's lease. What it still owns (a task that ignores its ctx) stays leased until the lease ends.
-- Called by Queue.Unregister, last of all.
--
-- KEYS[1] runners  [2] runner:RUNNER  [3] running:RUNNER  [4] inbox:RUNNER  [5] control:RUNNER  [6] wait  [7] room
-- ARGV[1] runner ID  [2] '1' if an ID may still arrive in the inbox (a blocked call that could not be ended)
--
-- Returns the number of tasks that it still owns.
local runners, runner, running, inbox, control, wait = unpack(KEYS)
local me, open = ARGV[1], ARGV[2] == '1'

redis.call('ZREM', runners, '')
while redis.call('EXISTS', inbox) == 1 do
  redis.call('LMOVE', inbox, wait, 'RIGHT', 'RIGHT')
end
local owned = redis.call('SCARD', running)
if owned == 0 and not open then
  redis.call('DEL', runner, control)
  redis.call('ZREM', runners, me)
end
return owned
