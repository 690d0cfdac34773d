-- Shared by the scripts that stop tasks, after holds. Returns what stop.lua tells.
local function stop_task(base, id, meant, scheduled, counter)
  local key = base .. 'task:' .. id
  local found = try('HMGET', key, 'task', 'state', 'runner', 'epoch', 'keep', 'options', 'nonce')
  if failed(found) then
    return { 'broken', found.err }
  end
  local task, state, runner, epoch, kept = found[1], found[2] or 'WAIT', found[3], found[4], found[5]
  if not task and redis.call('EXISTS', key) == 0 then
    return { 'missing', '' }
  end
  if state == 'STOPPED' then
    return { 'stopped', state }
  end
  if FINAL[state] then
    return { 'final', state }
  end
  if meant and meant ~= state .. ':' .. (epoch or '') .. ':' .. (found[7] or '') then
    return { 'moved', state }
  end
  make_room()
  if state == 'RUNNING' and redis.call('SISMEMBER', base .. 'running:' .. (runner or ''), (epoch or '') .. ':' .. id) == 1 then
    redis.call('HSET', base .. 'control:' .. runner, id, 'stop')
    redis.call('PUBLISH', base .. 'control:' .. id, 'stop')
    return { 'told', state }
  end

  -- In line, scheduled, or in nobody's hands. Its ID stays in `wait`, where the next claim drops it: LREM would cost a walk of the line.
  local now, number = clock(), integer(redis.call('INCR', counter))
  redis.call('HSET', key, 'state', 'STOPPED', 'epoch', number, 'ended_at', now)
  try('ZADD', base .. 'final:' .. index_of('STOPPED', kept), now, id)
  try('ZREM', scheduled, id)
  let_go(base, now, id, task, found[6])
  announce(base, id, 'stopped', 'null', task, number, now)
  return { 'stopped', state }
end
