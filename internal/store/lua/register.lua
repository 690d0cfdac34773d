-- Gives a runner its lease in a queue. Called by Queue.Register at the start, and after a lease was lost.
--
-- KEYS[1] runners  [2] runner:RUNNER  [3] room
-- ARGV[1] runner ID  [2] lease, ms  then field, value, ... of the runner's hash
--
-- Returns {1, now}, or {0, now} while another runner is still taking over what this one had.
local runners, runner = KEYS[1], KEYS[2]
local me, lease = ARGV[1], ARGV[2]

redis.call('ZREM', runners, '')
local now = clock()
if redis.call('ZSCORE', runners, me) == '0' then
  return { 0, now }
end
redis.call('HSET', runner, 'batch', '0', unpack(ARGV, 3))
redis.call('ZADD', runners, integer(now + lease), me)
return { 1, now }
