-- Gives a runner its lease in a queue. Called by Queue.Register at the start, and after a lease was lost.
--
-- KEYS[1] runners  [2] runner:RUNNER  [3] room
-- ARGV[1] runner ID  [2] lease, ms  [3] number of the last batch that was made before  then field, value, ... of the runner's hash
--
-- Returns {1, now}, or {0, now} while another runner is still taking over what this one had.
local runners, runner = KEYS[1], KEYS[2]
local me, lease, made = ARGV[1], ARGV[2], ARGV[3]

redis.call('ZREM', runners, '')
local now = clock()
if redis.call('ZSCORE', runners, me) == '0' then
  return { 0, now }
end
-- A batch that was under way when the lease was lost may still arrive: it counts as applied. So do those since, if this is a replay.
local last = redis.call('HGET', runner, 'batch')
if last and tonumber(last) > tonumber(made) then
  made = last
end
redis.call('HSET', runner, 'batch', made, unpack(ARGV, 4))
redis.call('ZADD', runners, integer(now + lease), me)
return { 1, now }
