-- Puts tasks whose time has come in line. Called by Queue.Promote, by every runner that knows of a due time: one of them finds it.
--
-- KEYS[1] scheduled  [2] wait  [3] room
-- ARGV[1] base, `P:{Q}:`  [2] tasks at most
--
-- Returns {moved, due time of the next one in ms or ''}.
local scheduled, wait = KEYS[1], KEYS[2]
local base, limit = ARGV[1], ARGV[2]

redis.call('ZREM', scheduled, '')
local now = clock()
local due = redis.call('ZRANGEBYSCORE', scheduled, '-inf', now, 'LIMIT', 0, limit)
local moved = 0
for _, id in ipairs(due) do
  local key = base .. 'task:' .. id
  local state = try('HGET', key, 'state')
  if unreachable(state) then
    return state -- it stays scheduled
  end
  if state == 'SCHEDULED' then
    redis.call('LPUSH', wait, id)
    redis.call('HDEL', key, 'state', 'due_at')
    moved = moved + 1
  end
  redis.call('ZREM', scheduled, id)
end
local following = redis.call('ZRANGE', scheduled, 0, 0, 'WITHSCORES')
return { moved, digits(following[2]) }
