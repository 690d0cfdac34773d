-- Renews a runner's lease in a queue, and tells it what it should look at. Called by Queue.Renew.
--
-- KEYS[1] runners  [2] runner:RUNNER  [3] running:RUNNER  [4] control:RUNNER  [5] scheduled  [6] room
-- ARGV[1] runner ID  [2] lease, ms
--
-- Returns {held, now, tasks it owns, pending intents, due time of the next scheduled task or timer in ms or '']; held is 0 when the lease is gone.
local runners, runner, running, control, scheduled = unpack(KEYS)
local me, lease = ARGV[1], ARGV[2]

redis.call('ZREM', runners, '')
local now = clock()
local score = redis.call('ZSCORE', runners, me)
if not score or score == '0' or redis.call('EXISTS', runner) == 0 then
  return { 0, now, 0, 0, '' }
end
redis.call('ZADD', runners, integer(now + lease), me)

local function count(command, key)
  local n = try(command, key)
  return failed(n) and 0 or n
end

return { 1, now, count('SCARD', running), count('HLEN', control), earliest(scheduled) }
