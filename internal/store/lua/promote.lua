-- Puts tasks whose time has come in line, and looks at what timers are for. Called by Queue.Promote, by every runner that knows of a due
-- time: one of them finds it.
--
-- KEYS[1] scheduled  [2] wait  [3] room
-- ARGV[1] base, `P:{Q}:`  [2] tasks at most
--
-- Returns {moved, due time of the next task or timer in ms or '', now}.
local scheduled, wait = KEYS[1], KEYS[2]
local base, limit = ARGV[1], ARGV[2]
local timers = base .. 'timers'

redis.call('ZREM', scheduled, '')
local now = clock()
local h

local due = redis.call('ZRANGEBYSCORE', scheduled, '-inf', now, 'LIMIT', 0, limit)
local moved = 0
for _, id in ipairs(due) do
  local key = base .. 'task:' .. id
  local found = try('HMGET', key, 'state', 'options')
  if unreachable(found) then
    return found -- it stays scheduled
  end
  if found[1] == 'SCHEDULED' then
    h = h or found[2] and holds(base, now)
    put_in_line(h, wait, scheduled, key, id, found[2])
    moved = moved + 1
  else
    redis.call('ZREM', scheduled, id)
  end
end
for _, timer in ipairs(redis.call('ZRANGEBYSCORE', timers, '-inf', now, 'LIMIT', 0, limit)) do
  h = h or holds(base, now)
  h.safely('look', timer)
end
local following = earliest(scheduled)
return { moved, following, now }
