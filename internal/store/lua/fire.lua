-- Lets an entry of the schedule fire: starts its task and says when it fires next. Called by Queue.Fire, by every runner that sees that it is
-- due: the first moves the time that it is due at, and the others find that moved.
--
-- KEYS[1] cron  [2] cron:NAME  [3] wait  [4] room
-- ARGV[1] base, `P:{Q}:`  [2] name  [3] when it is due, as it was seen  [4] when it fires next, ms; '' never again
-- ARGV[5] ID of the task; '' if this time is to be left out  [6] overlap: allow, skip or replace  [7] what begins.lua reads
-- ARGV[8] schedule  [9] zone: as they were read  then field, value, ...
--
-- Returns {outcome, ID}: `started`, `other` (somebody else let it fire), `overlap` (the last one is not final), `left out`, `exists` (the ID
-- is in use), or what begins.lua says that is no start.
local entries, entry, wait = KEYS[1], KEYS[2], KEYS[3]
local base, name, seen, following, id, overlap, json, schedule, zone = unpack(ARGV)

make_room() -- a full Redis must not refuse the task and take the next time
local score = digits(redis.call('ZSCORE', entries, name))
if score == '' or score ~= seen or redis.call('HGET', entry, 'schedule') ~= schedule or
  (redis.call('HGET', entry, 'zone') or '') ~= zone then
  return { 'other', '' }
end
redis.call('LLEN', wait) -- of another type it must not be found to be only when the task is written
local now = clock()

local function fault(reply)
  return 'broken:' .. reply.err
end

-- Whether the task of the last time is not final.
local function runs_still(last)
  local found = last and try('HMGET', base .. 'task:' .. last, 'task', 'state')
  return found and not failed(found) and found[1] and not FINAL[found[2]]
end

local function start(last)
  if id == '' then
    return 'left out'
  elseif redis.call('EXISTS', base .. 'task:' .. id) == 1 then
    return 'exists'
  end
  if overlap ~= 'allow' and runs_still(last) then
    if overlap == 'skip' then
      return 'overlap'
    end
    stop_task(base, last, nil, base .. 'scheduled', base .. 'epoch')
  end
  local answer, plain = begins(base, now, fault)(id, json, { unpack(ARGV, 10) })
  if plain then
    redis.call('LPUSH', wait, plain)
  end
  return answer == 'ok' and 'started' or answer
end

local outcome = start(redis.call('HGET', entry, 'last_id'))
if outcome == 'started' or outcome == 'exists' then
  redis.call('HSET', entry, 'last_id', id, 'last_at', seen)
end
if following == '' then
  redis.call('ZADD', entries, NEVER, name)
  redis.call('HDEL', entry, 'next_at')
else
  redis.call('ZADD', entries, following, name)
  redis.call('HSET', entry, 'next_at', following)
end
return { outcome, id }
