-- Ends tasks and claims more, with none of redtask's safety. Called by the limit-script worker.
--
-- KEYS[1] wait  [2] ended  [3] count
-- ARGV[1] prefix of the tasks' keys  [2] tasks to claim at most  [3] W, the number of IDs that BRPOP has taken; ARGV[4 .. 3+W] these
-- then the IDs of the tasks that ended
--
-- Returns ID and data of each claim, one after the other.
local wait, ended, count = KEYS[1], KEYS[2], KEYS[3]
local base, want, woken = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

local time = redis.call('TIME')
local now = time[1] .. string.format('%03d', math.floor(time[2] / 1000))
local claims = {}

local function claim(id)
  local key = base .. id
  redis.call('HSET', key, 'state', 'RUNNING', 'started_at', now)
  claims[#claims + 1], claims[#claims + 2] = id, redis.call('HGET', key, 'data')
end

local scores = {}
for i = 4 + woken, #ARGV do
  local id = ARGV[i]
  redis.call('HSET', base .. id, 'state', 'ENDED', 'ended_at', now)
  scores[#scores + 1], scores[#scores + 2] = now, id
end
if #scores > 0 then
  redis.call('ZADD', ended, unpack(scores))
  redis.call('HINCRBY', count, 'ended', #scores / 2)
end
for i = 4, 3 + woken do
  claim(ARGV[i])
end
if want > woken then
  for _, id in ipairs(redis.call('RPOP', wait, want - woken) or {}) do
    claim(id)
  end
end
return claims
