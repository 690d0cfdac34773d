-- Puts a task that is scheduled in line at once, and says of a failed one which it is, for restart.lua. Called by Queue.Retry and by
-- Queue.Change.
--
-- KEYS[1] wait  [2] scheduled  [3] room
-- ARGV[1] base, `P:{Q}:`  [2] ID  [3] nonce of this call: a replay whose reply was lost changes nothing
-- ARGV[4] `STATE:EPOCH:NONCE` of the task that is meant, or nothing
--
-- Returns {outcome, state before}: `waiting`, `failed` (with `STATE:EPOCH:NONCE` for a state: nothing was done), `running`, `final` (it did
-- not fail), `missing`, `moved` (it is not as it was meant: nothing was done), `broken` (message).
local wait, scheduled = KEYS[1], KEYS[2]
local base, id, nonce, meant = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local key = base .. 'task:' .. id

local found = try('HMGET', key, 'task', 'state', 'epoch', 'nonce', 'options')
if failed(found) then
  return { 'broken', found.err }
end
local state = found[2] or 'WAIT'
local is = state .. ':' .. (found[3] or '') .. ':' .. (found[4] or '')
if not found[1] and redis.call('EXISTS', key) == 0 then
  return { 'missing', '' }
elseif found[4] == nonce then
  return { 'waiting', state }
elseif meant and meant ~= is then
  return { 'moved', state }
elseif state == 'ERROR' or state == 'EXCEPTION' then
  return { 'failed', is }
elseif FINAL[state] then
  return { 'final', state }
elseif state ~= 'SCHEDULED' then
  return { state == 'RUNNING' and 'running' or 'waiting', state }
end
make_room()
put_in_line(found[5] and holds(base, clock()), wait, scheduled, key, id, found[5])
redis.call('HSET', key, 'nonce', nonce)
return { 'waiting', state }
