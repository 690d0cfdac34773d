-- Runs a task again under its ID: a final one goes in line; a running one is stopped first. Called by Queue.Restart.
--
-- KEYS[1] wait  [2] epoch  [3] room
-- ARGV[1] base, `P:{Q}:`  [2] ID  [3] nonce of this call: a replay whose reply was lost changes nothing
-- ARGV[4] `STATE:EPOCH:NONCE` of the task that is meant, or nothing
--
-- Returns {outcome, state before}: `waiting`, `told`, `stopping` (a stop is pending, and wins), `once` (its unique key is another task's),
-- `missing`, `moved` (it is not as it was meant: nothing was done), `broken` (message).
local wait, counter = KEYS[1], KEYS[2]
local base, id, nonce, meant = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local key = base .. 'task:' .. id

local found = try('HMGET', key, 'task', 'state', 'runner', 'epoch', 'nonce', 'options')
if failed(found) then
  return { 'broken', found.err }
end
local task, state, runner, epoch = found[1], found[2] or 'WAIT', found[3], found[4]
if not task and redis.call('EXISTS', key) == 0 then
  return { 'missing', '' }
end
if found[5] ~= nonce and meant and meant ~= state .. ':' .. (epoch or '') .. ':' .. (found[5] or '') then
  return { 'moved', state }
end
if found[5] == nonce or state == 'WAIT' or state == 'SCHEDULED' then
  return { 'waiting', state }
end
make_room()
if state == 'RUNNING' and redis.call('SISMEMBER', base .. 'running:' .. (runner or ''), (epoch or '') .. ':' .. id) == 1 then
  local control = base .. 'control:' .. runner
  if redis.call('HGET', control, id) == 'stop' then
    return { 'stopping', state }
  end
  redis.call('HSET', key, 'nonce', nonce)
  redis.call('HSET', control, id, 'restart')
  redis.call('PUBLISH', base .. 'control:' .. id, 'restart')
  return { 'told', state }
end

local h = found[6] and holds(base, clock())
local options = h and h.options(found[6])
if h and not h.retake_once(id, options) then
  return { 'once', state }
end
local number = integer(redis.call('INCR', counter))
if not h or h.enqueue(id, options, true) then
  redis.call('LPUSH', wait, id)
end
redis.call('HSET', key, 'nonce', nonce, 'epoch', number)
redis.call('HDEL', key, 'state', 'attempt', 'runner', 'started_at', 'ended_at', 'output', 'error', 'stack', 'progress', 'recoveries', 'restarts', 'expires_at')
if FINAL[state] then -- a reload that its end had overtaken
  redis.call('HDEL', key, 'reload_data')
end
unindex(base, id)
announce(base, id, 'wait', '{"reason":"restarted"}', task, number, clock())
return { 'waiting', state }
