-- Asks a running task to start over with its (new) data; gives a waiting one new data. Called by Queue.Reload.
--
-- KEYS[1] scheduled  [2] room
-- ARGV[1] base, `P:{Q}:`  [2] ID  [3] nonce of this call: a replay whose reply was lost changes nothing
-- ARGV[4] '1' if there is new data  [5] the new data
--
-- Returns {outcome, state}: `told` (also for a replay), `stored` (it waits: it will start with the data), `final`, `missing`, `broken` (message).
local scheduled = KEYS[1]
local base, id, nonce, given, data = ARGV[1], ARGV[2], ARGV[3], ARGV[4] == '1', ARGV[5]
local key = base .. 'task:' .. id

local found = try('HMGET', key, 'task', 'state', 'runner', 'epoch', 'reload_nonce')
if failed(found) then
  return { 'broken', found.err }
end
local task, state, runner, epoch = found[1], found[2] or 'WAIT', found[3], found[4]
if not task and redis.call('EXISTS', key) == 0 then
  return { 'missing', '' }
end
if found[5] == nonce then
  return { 'told', state }
end
if FINAL[state] then
  return { 'final', state }
end
redis.call('ZREM', scheduled, '')
if state ~= 'RUNNING' then
  if given then
    redis.call('HSET', key, 'data', data, 'reload_nonce', nonce)
    redis.call('HDEL', key, 'reload_data')
  end
  return { 'stored', state }
end
if given then
  redis.call('HSET', key, 'reload_data', data)
end
if redis.call('SISMEMBER', base .. 'running:' .. (runner or ''), (epoch or '') .. ':' .. id) == 1 then
  local control = base .. 'control:' .. runner
  local pending = redis.call('HGET', control, id)
  if pending ~= 'stop' and pending ~= 'restart' then
    redis.call('HSET', control, id, 'reload')
  end
  redis.call('HSET', key, 'reload_nonce', nonce) -- only now: a call that broke off above may be made again
  redis.call('PUBLISH', base .. 'control:' .. id, 'reload')
end
return { 'told', state }
