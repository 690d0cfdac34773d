-- Finds final tasks that are too old or too many. One cleaner at a time: it takes, or already has, the queue's cleaning lock.
-- Called by Queue.Expired.
--
-- KEYS[1] cleaner (the lock: a runner ID with a TTL)  [2] room
-- ARGV[1] base, `P:{Q}:`  [2] runner ID  [3] lock TTL, ms  [4] IDs at most for each state
-- then for each state: STATE, age in ms, count at most, number of the oldest due ones to skip
--
-- Returns {} if another runner cleans; else for each state in turn a list id, end time, ..., the oldest first.
local cleaner = KEYS[1]
local base, me, ttl, limit = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])

make_room()
local holder = redis.call('GET', cleaner)
if holder and holder ~= me then
  return {}
end
redis.call('SET', cleaner, me, 'PX', ttl)
local now = tonumber(clock())

local function due(index, age, most, skip)
  local size = try('ZCARD', index)
  if failed(size) or size == 0 then
    return {} -- if it cannot be read: the commits that cannot list their tasks there say so
  end
  local excess = size - most
  if excess > skip then
    return redis.call('ZRANGE', index, skip, math.min(excess, skip + limit) - 1, 'WITHSCORES')
  end
  return redis.call('ZRANGEBYSCORE', index, '-inf', integer(now - age), 'WITHSCORES', 'LIMIT', skip, limit)
end

local reply = {}
for i = 5, #ARGV, 4 do
  reply[#reply + 1] = due(base .. 'final:' .. ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3]))
end
return reply
