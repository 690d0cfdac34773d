-- Removes a task that does not run, with its record. An ID left in `wait` is dropped by the next claim. Called by Queue.Remove.
--
-- KEYS[1] scheduled  [2] epoch  [3] room
-- ARGV[1] base, `P:{Q}:`  [2] ID  [3] `STATE:EPOCH:NONCE` of the task that is meant, or nothing
--
-- Returns `removed`, `missing`, `running`, or `moved` (it is not as it was meant: nothing was done).
local scheduled, counter = KEYS[1], KEYS[2]
local base, id, meant = ARGV[1], ARGV[2], ARGV[3]
local key = base .. 'task:' .. id

local found = try('HMGET', key, 'task', 'state', 'runner', 'epoch', 'options', 'nonce', 'log')
if failed(found) then
  found = { 'a key of another type', [7] = '1' } -- it may have had a log before
end
if found[2] == 'RUNNING' and redis.call('SISMEMBER', base .. 'running:' .. (found[3] or ''), (found[4] or '') .. ':' .. id) == 1 then
  return 'running'
end
if meant and found[1] and meant ~= (found[2] or 'WAIT') .. ':' .. (found[4] or '') .. ':' .. (found[6] or '') then
  return 'moved'
end
local now = clock()
unindex(base, id)
redis.call('ZREM', scheduled, id)
let_go(base, now, id, found[1], found[5])
if found[7] then
  redis.call('DEL', base .. 'log:' .. id)
end
if redis.call('DEL', key) == 0 then
  return 'missing'
end
announce(base, id, 'removed', 'null', found[1], integer(redis.call('INCR', counter)), now)
return 'removed'
