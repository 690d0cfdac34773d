-- Makes a task that waits due at another time. Called by Queue.Reschedule.
--
-- KEYS[1] wait  [2] scheduled  [3] room
-- ARGV[1] base, `P:{Q}:`  [2] ID  [3] when it is due, ms, or 0  [4] ms from now, if [3] is 0
--
-- Returns {outcome, state before}: `scheduled`, `waiting` (the time is past: it is in line), `running`, `final`, `missing`, `broken` (message).
local wait, scheduled = KEYS[1], KEYS[2]
local base, id, at, delay = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local key = base .. 'task:' .. id

local found = try('HMGET', key, 'task', 'state', 'options')
if failed(found) then
  return { 'broken', found.err }
end
local state = found[2] or 'WAIT'
if not found[1] then
  return { 'missing', '' }
elseif state == 'RUNNING' then
  return { 'running', state }
elseif FINAL[state] then
  return { 'final', state }
end
make_room()
local now = clock()
local h = holds(base, now)
local due = at > 0 and at or now + delay
if due > tonumber(now) then
  -- Its ID may stay in `wait`, where a claim drops it; what it waits for there, others get.
  h.schedule(id, integer(due)) -- first, for it may fail
  redis.call('HSET', key, 'state', 'SCHEDULED', 'due_at', integer(due))
  if state == 'WAIT' then
    h.safely('step_back', id)
  end
  return { 'scheduled', state }
end
if state == 'WAIT' then
  return { 'waiting', state }
end
put_in_line(h, wait, scheduled, key, id, found[3])
return { 'waiting', state }
