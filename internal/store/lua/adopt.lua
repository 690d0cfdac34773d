-- Lists a local task as RUNNING: bound to one runner, never in line, removed when it ends. Called by Queue.Adopt.
--
-- KEYS[1] running:RUNNER  [2] runner:RUNNER  [3] epoch  [4] room
-- ARGV[1] base, `P:{Q}:`  [2] runner ID  [3] ID  [4] task  [5] data
--
-- Returns its epoch; '' if the runner holds no lease; a replay returns the epoch of the first call.
local running, runner, counter = KEYS[1], KEYS[2], KEYS[3]
local base, me, id, task, data = unpack(ARGV)
local key = base .. 'task:' .. id

redis.call('SREM', running, '')
if redis.call('HEXISTS', runner, 'batch') == 0 then
  return ''
end
local epoch = redis.call('HGET', key, 'epoch')
if epoch and redis.call('SISMEMBER', running, epoch .. ':' .. id) == 1 then
  return epoch
end
epoch = integer(redis.call('INCR', counter))
redis.call('SADD', running, epoch .. ':' .. id)
redis.call('HSET', key, 'task', task, 'data', data, 'state', 'RUNNING', 'epoch', epoch, 'runner', me, 'local', '1', 'started_at', clock())
return epoch
