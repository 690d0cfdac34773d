-- Puts some of a dead runner's tasks back in line. Called by Queue.TakeOver, by any number of monitors, until nothing is left.
-- A task is delayed from its second recovery on, and ends in EXCEPTION after too many: it may be what kills its runners.
--
-- KEYS[1] runners  [2] runner:DEAD  [3] running:DEAD  [4] inbox:DEAD  [5] control:DEAD  [6] wait  [7] scheduled  [8] epoch  [9] counters
-- KEYS[10] room
-- ARGV[1] base, `P:{Q}:`  [2] dead runner's ID  [3] the lease end that was seen, ms  [4] tasks at most in this call
-- ARGV[5] recoveries at most  [6] first delay, ms  [7] longest delay, ms  [8] ms after which a run counts as stable  [9] a random number below 1000
-- ARGV[10] 1 if the lease end was seen unchanged for a whole lease: then it need not be past
--
-- Returns {-1} if the lease was renewed after all; else {left, back, delayed, stopped, poisoned}: what this call did, and the tasks left.
local runners, runner, running, inbox, control, wait, scheduled, counter, counters = unpack(KEYS)
local base, dead, seen, limit = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local most, first, longest, stable, jitter = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local watched = ARGV[10] == '1'

redis.call('ZREM', runners, '')
local score = decimal(redis.call('ZSCORE', runners, dead))
local now = clock()
if not score or (score ~= 0 and (score ~= seen or (score > tonumber(now) and not watched))) then
  return { -1 }
end
-- From here on the runner can neither renew nor commit: score 0 says so until its last task has moved.
redis.call('ZADD', runners, 0, dead)
try('HDEL', runner, 'batch')
-- Up to its last renewal it lived for certain. How long ago it died says nothing of its runs: nobody may have watched.
if score ~= 0 then
  try('HSET', runner, 'renewed_at', integer(score - (tonumber(try('HGET', runner, 'lease_ms')) or 0)))
end
local renewed = tonumber(try('HGET', runner, 'renewed_at')) or tonumber(now)

local done = { back = 0, delayed = 0, stopped = 0, poisoned = 0 }

-- Each of these copies first: an error there cuts the call, with this task and those after it untouched.
local function end_task(id, key, task, state, keep, message)
  local epoch = integer(redis.call('INCR', counter))
  local data = message and '{"error":' .. quote(message) .. '}' or 'null'
  redis.call('HSET', key, 'state', state, 'epoch', epoch, 'ended_at', now)
  if message then
    redis.call('HSET', key, 'error', message)
  end
  try('ZADD', base .. 'final:' .. index_of(state, keep), now, id)
  announce(base, id, string.lower(state), data, task, epoch, now)
end

local function wait_again(id, key, task, recoveries, attempt)
  local epoch = integer(redis.call('INCR', counter))
  local data = '{"reason":"recovered","recoveries":' .. recoveries .. ',"runner":' .. quote(dead) .. '}'
  if recoveries == 1 then
    redis.call('RPUSH', wait, id)
    redis.call('HDEL', key, 'state', 'runner', 'started_at')
    redis.call('HSET', key, 'recoveries', recoveries, 'epoch', epoch, 'attempt', attempt)
    announce(base, id, 'wait', data, task, epoch, now)
    done.back = done.back + 1
    return
  end
  -- Spread over half to one and a half of the delay: the poison's neighbours come back at other times than the poison.
  local delay = math.min(longest, first * 2 ^ (recoveries - 2)) * (500 + jitter) / 1000
  jitter = (jitter * 31 + 17) % 1000
  redis.call('ZADD', scheduled, integer(now + delay), id)
  redis.call('HSET', key, 'state', 'SCHEDULED', 'recoveries', recoveries, 'epoch', epoch, 'attempt', attempt, 'due_at', integer(now + delay))
  redis.call('HDEL', key, 'runner', 'started_at')
  announce(base, id, 'scheduled', data, task, epoch, now)
  done.delayed = done.delayed + 1
end

local function recover(id, member_epoch)
  local key = base .. 'task:' .. id
  local found = try('HMGET', key, 'task', 'state', 'epoch', 'attempt', 'recoveries', 'started_at', 'keep', 'local', 'options')
  if unreachable(found) then
    return found
  end
  if failed(found) or found[2] ~= 'RUNNING' or found[3] ~= member_epoch then
    return -- removed, replaced, or already elsewhere: this member owns nothing
  end
  local task, recoveries = found[1], tonumber(found[5]) or 0
  local function leave(final) -- with a first recovery it is next in line
    local h = holds(base, now)
    h.safely('leave', id, task or '', h.options(found[9]), final, not final and recoveries == 1)
  end
  if found[8] then
    redis.call('DEL', key)
    announce(base, id, 'removed', '{"reason":"runner gone"}', task, integer(redis.call('INCR', counter)), now)
    return
  end
  if try('HGET', control, id) == 'stop' then
    end_task(id, key, task, 'STOPPED', found[7], nil)
    leave(true)
    done.stopped = done.stopped + 1
    return
  end
  if renewed - (tonumber(found[6]) or 0) >= stable then
    recoveries = 0
  end
  recoveries = recoveries + 1
  local attempt = integer(math.max(0, (tonumber(found[4]) or 1) - 1)) -- a recovery is not an attempt
  if recoveries > most then
    end_task(id, key, task, 'EXCEPTION', found[7],
      'its runner died ' .. recoveries .. ' times while it ran: recovery given up; find out what kills the process, then restart the task')
    redis.call('HSET', key, 'attempt', attempt)
    leave(true)
    done.poisoned = done.poisoned + 1
    return
  end
  wait_again(id, key, task, recoveries, attempt)
  leave(false)
end

while redis.call('EXISTS', inbox) == 1 do
  redis.call('LMOVE', inbox, wait, 'RIGHT', 'RIGHT')
end
local members = redis.call('SRANDMEMBER', running, limit)
for _, member in ipairs(members) do
  local epoch, id = string.match(member, '^(%d+):(.*)$')
  local fault = id and recover(id, epoch)
  if fault then
    return fault -- this one and those after it stay for the next call
  end
  redis.call('SREM', running, member)
end
local moved = done.back + done.delayed + done.stopped + done.poisoned
if moved > 0 then
  try('HINCRBY', counters, 'recovered', moved)
end
local left = redis.call('SCARD', running)
if left == 0 then
  redis.call('DEL', runner, control)
  redis.call('ZREM', runners, dead)
end
return { left, done.back, done.delayed, done.stopped, done.poisoned }
