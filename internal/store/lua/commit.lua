-- Applies one batch of what a runner's tasks did, in order, then claims more: the only round trip of the steady state.
-- Called by Queue.Commit.
--
-- KEYS[1] wait  [2] running:RUNNER  [3] inbox:RUNNER  [4] runner:RUNNER  [5] control:RUNNER  [6] epoch  [7] scheduled  [8] counters
-- KEYS[9] room
-- ARGV[1] base, `P:{Q}:`  [2] runner ID  [3] number of this batch  [4] tasks to claim at most
-- ARGV[5] F, the number of fenced items; ARGV[6 .. 5+F] their members `EPOCH:ID`, in the order of the items
-- then the items; `event` is what follows `{"event":"KIND",` in an event's JSON:
--   emit  ID JSON
--   write ID n field value ...                                    (n strings follow it)
--   leave ID n STATE delay_ms index event field value ...         STATE: final, WAIT, SCHEDULED or REMOVED
--   swap  ID n new_member new_epoch data event index              a reload worked: the new instance takes over; index is where the task
--                                                                 is listed if a pending stop wins, REMOVED for a local task
--   keep  ID n data_tried data_running                            a reload failed: the old instance stays
--
-- Returns {'unregistered'}: this runner's lease is gone, nothing was done; {'replayed', now}: the batch had been applied before;
-- {'ok', now, codes, claims, drops, faults, unclaimed}:
--   codes, one per fenced item: ok, lost (the epoch is no more this runner's), stopped (a pending stop won), broken:message,
--   away:message (its key cannot be used just now: say it again);
--   claims, seven strings each: id, epoch, attempt, task, data, keep, reload; drops: id, reason; faults: messages about keys;
--   unclaimed: whether IDs may remain in line.
local wait, running, inbox, runner, control, counter, scheduled, counters = unpack(KEYS)
local base, me, batch, want, fenced = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])

-- A removal first: a full Redis (noeviction) accepts the writes of a script that began with one.
redis.call('SREM', running, '')
local last = redis.call('HGET', runner, 'batch')
if not last then
  return { 'unregistered' }
end
local now = clock()
if tonumber(last) >= tonumber(batch) then
  return { 'replayed', now }
end

local codes, claims, drops, faults = {}, {}, {}, {}
local gone, settled = {}, {}   -- members to remove from running, IDs whose pending intent is settled
local left = {}                -- members whose claim has ended: by an earlier item of this batch, or by a later claim
local joined = {}              -- members that a swap of this batch has made
local back, back_members = {}, {}
local final = {}               -- index -> {score, id, ...}
local pending = try('HLEN', control)
local intents = not failed(pending) and pending > 0

local function fault(key, reply)
  faults[#faults + 1] = key .. ': ' .. reply.err
end

-- A call on a key of the queue that may hold anything. Once the first event is out nothing here may raise an error, but for a right that
-- is lacking: the batch would be sent again, and its events with it.
local function on(key, command, ...)
  local reply = try(command, key, ...)
  if failed(reply) then
    fault(key, reply)
    return nil
  end
  return reply
end

local function publish(id, kind, event)
  redis.call('PUBLISH', base .. 'events:' .. id, '{"event":"' .. kind .. '",' .. event)
end

local function intent(id)
  return intents and redis.call('HGET', control, id)
end

-- Returns what is wrong, and whether only for now: then the run stays this runner's.
local function set(key, at, to)
  if to < at then
    return nil
  end
  local reply = try('HSET', key, unpack(ARGV, at, to))
  if unreachable(reply) then
    return 'away:' .. reply.err, true
  elseif failed(reply) then
    return 'broken:' .. reply.err
  end
end

local function let_go(id, member)
  gone[#gone + 1], settled[#settled + 1] = member, id
end

local function put_back(id, member)
  back[#back + 1], back_members[#back_members + 1] = id, member
end

-- A restart that was promised comes true even if the task ended by itself before it was told. The event's last `,"id":` is its own:
-- within its data a quote in a string is escaped, and what is not in a string stands before.
local function restart(id, key, event, member)
  try('HDEL', key, 'output', 'error', 'stack', 'progress')
  try('HSET', key, 'attempt', '0')
  put_back(id, member)
  publish(id, 'wait', '"data":{"reason":"restarted"}' .. string.match(event, '.*(,"id":.*)$'))
end

local function finish(id, key, state, index, event, member)
  local reply = try('HSET', key, 'state', state, 'ended_at', now)
  if unreachable(reply) then
    return 'away:' .. reply.err
  end
  local scores = final[index] or {}
  final[index] = scores
  if not failed(reply) then
    scores[#scores + 1], scores[#scores + 2] = now, id
  end
  let_go(id, member)
  publish(id, string.lower(state), event)
  return failed(reply) and 'broken:' .. reply.err or nil
end

-- A local task leaves no record.
local function remove(id, key, event, member)
  try('DEL', key)
  let_go(id, member)
  publish(id, 'removed', event)
end

local apply = {}

function apply.write(id, key, at, n)
  return set(key, at, at + n - 1)
end

function apply.leave(id, key, at, n, member)
  local state, delay, index, event = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  if state == 'REMOVED' then
    return remove(id, key, event, member)
  end
  local broken, away = set(key, at + 4, at + n - 1)
  if away then
    return broken
  end
  if FINAL[state] and state ~= 'STOPPED' and intent(id) == 'restart' then
    restart(id, key, event, member)
    return broken
  end
  if FINAL[state] then
    return finish(id, key, state, index, event, member) or broken
  end
  if intent(id) == 'stop' then
    return finish(id, key, 'STOPPED', index, event, member) or broken or 'stopped'
  end
  if state == 'SCHEDULED' then
    local due = integer(now + delay)
    if not on(scheduled, 'ZADD', due, id) then
      return 'broken:' .. faults[#faults]
    end
    try('HSET', key, 'state', 'SCHEDULED', 'due_at', due)
    try('HDEL', key, 'runner', 'started_at', 'recoveries')
    let_go(id, member)
  else
    put_back(id, member)
  end
  publish(id, string.lower(state), event)
  return broken
end

function apply.swap(id, key, at, n, member)
  local new_member, epoch, data, event, index = unpack(ARGV, at, at + 4)
  local word = intent(id)
  if word == 'stop' and index == 'REMOVED' then
    remove(id, key, event, member)
    return 'stopped'
  elseif word == 'stop' then
    return finish(id, key, 'STOPPED', index, event, member) or 'stopped'
  end
  local reply = try('HSET', key, 'epoch', epoch, 'started_at', now)
  if failed(reply) then
    return 'broken:' .. reply.err
  end
  local found = redis.call('HMGET', key, 'reload_data', 'data')
  local newest = found[1]
  if newest then -- without it the data came from the hash's own field, which somebody may have changed since
    redis.call('HSET', key, 'data', data)
  end
  if newest == data then
    redis.call('HDEL', key, 'reload_data')
  end
  -- Newer data, and a restart, are still to come: the next renewal tells the new run. Without data a task runs with null.
  local last = newest or found[2]
  if (last and last ~= '' and last or 'null') == data and word ~= 'restart' then
    settled[#settled + 1] = id
  end
  redis.call('SADD', running, new_member)
  joined[new_member] = true
  gone[#gone + 1] = member
end

function apply.keep(id, key, at)
  local tried, old = ARGV[at], ARGV[at + 1]
  local found = try('HMGET', key, 'data', 'reload_data')
  if failed(found) then
    return 'broken:' .. found.err
  end
  if found[2] and found[2] ~= tried then
    return nil -- newer data came meanwhile, with an intent of its own
  end
  redis.call('HDEL', key, 'reload_data')
  if found[1] == tried then
    redis.call('HSET', key, 'data', old)
  end
  -- The intent may be for data that somebody wrote meanwhile.
  if (found[2] or found[1] or '') == tried and intent(id) == 'reload' then
    redis.call('HDEL', control, id)
  end
end

-- A record that someone deleted or changed by hand may have been claimed anew: then it is the later run's, although this one's member is
-- still there. Without an epoch, or a hash, nobody else has it.
local function overtaken(key, id, member)
  local epoch = try('HGET', key, 'epoch')
  return type(epoch) == 'string' and epoch .. ':' .. id ~= member
end

local function apply_items()
  local held = {}
  if fenced > 0 then
    held = redis.call('SMISMEMBER', running, unpack(ARGV, 6, 5 + fenced))
  end
  local i, fence = 6 + fenced, 0
  while i <= #ARGV do
    local op, id = ARGV[i], ARGV[i + 1]
    if op == 'emit' then
      redis.call('PUBLISH', base .. 'events:' .. id, ARGV[i + 2])
      i = i + 3
    else
      fence = fence + 1
      local n, member, key = tonumber(ARGV[i + 2]), ARGV[5 + fence], base .. 'task:' .. id
      if left[member] or (held[fence] ~= 1 and not joined[member]) then
        codes[fence] = 'lost'
      elseif overtaken(key, id, member) then
        codes[fence] = 'lost'
        left[member], gone[#gone + 1] = true, member
      else
        codes[fence] = apply[op](id, key, i + 3, n, member) or 'ok'
        left[member] = op == 'leave' or op == 'swap'
      end
      i = i + 3 + n
    end
  end
end

-- Only now is anything removed: everything above has been copied to where it goes.
local function release()
  for index, scores in pairs(final) do
    if #scores > 0 then
      on(base .. 'final:' .. index, 'ZADD', unpack(scores))
    end
  end
  if #back > 0 then
    if on(wait, 'RPUSH', unpack(back)) then
      for i, member in ipairs(back_members) do
        try('HDEL', base .. 'task:' .. back[i], 'state', 'runner', 'started_at', 'recoveries')
        let_go(back[i], member)
      end
    end -- else they stay this runner's, and come back when the line works again
  end
  if #gone > 0 then
    redis.call('SREM', running, unpack(gone))
  end
  if intents and #settled > 0 then
    redis.call('HDEL', control, unpack(settled))
  end
end

local function drop(id, reason)
  drops[#drops + 1], drops[#drops + 2] = id, reason
end

-- A hash that cannot be run and can be written ends in EXCEPTION, where someone will see it.
local function refuse(id, key, message)
  local number = on(counter, 'INCR')
  if not number then
    return false
  end
  local epoch = integer(number)
  local data = '{"error":' .. quote(message) .. '}'
  redis.call('HSET', key, 'state', 'EXCEPTION', 'error', message, 'epoch', epoch, 'ended_at', now)
  try('ZADD', base .. 'final:EXCEPTION', now, id)
  announce(base, id, 'exception', data, '', epoch, now)
  drop(id, message)
  return true
end

-- Reports whether an ID in line runs all the same: only a record that was changed by hand names a runner then.
local function runs(id, runner, epoch)
  return runner and try('SISMEMBER', base .. 'running:' .. runner, (epoch or '') .. ':' .. id) == 1
end

-- Returns false if a key of the queue is broken: then the IDs stay in line.
local function read(ids, seen, found)
  for i = #ids, 1, -1 do
    local id = ids[i]
    local key = base .. 'task:' .. id
    local task = try('HMGET', key, 'task', 'data', 'state', 'attempt', 'keep', 'reload_data', 'runner', 'epoch')
    if seen[id] then
      drop(id, 'in line twice')
    elseif unreachable(task) then
      fault(key, task)
      return false
    elseif failed(task) then
      drop(id, 'its key holds no hash: ' .. task.err)
    elseif task[3] and task[3] ~= 'WAIT' then
      drop(id, 'it is ' .. task[3] .. (FINAL[task[3]] and '; to run it again set its state to WAIT, then push it' or ''))
    elseif runs(id, task[7], task[8]) then
      redis.call('HSET', key, 'state', 'RUNNING')
      drop(id, 'it runs; its state was set to WAIT by hand')
    elseif task[1] then
      seen[id] = true
      task.id, task.key = id, key
      found[#found + 1] = task
    elseif redis.call('EXISTS', key) == 1 then
      if not refuse(id, key, 'the hash has no field `task`: HSET it to the name of a task, then start the ID again') then
        return false
      end
    else
      drop(id, 'there is no hash with this ID')
    end
  end
  return true
end

local function claim_all(found)
  local last_epoch = on(counter, 'INCRBY', #found)
  if not last_epoch then
    return false
  end
  local members, epochs = {}, {}
  for i, task in ipairs(found) do
    epochs[i] = integer(last_epoch - #found + i)
    members[i] = epochs[i] .. ':' .. task.id
  end
  redis.call('SADD', running, unpack(members))
  for i, task in ipairs(found) do
    local id, key = task.id, task.key
    local attempt = integer((tonumber(task[4]) or 0) + 1)
    if task[3] then -- an explicit WAIT: someone started a final task again by hand, with the data that is there now
      unindex(base, id)
      redis.call('HDEL', key, 'ended_at', 'error', 'output', 'stack', 'progress', 'recoveries', 'reload_data')
      task[6] = false
    end
    redis.call('HSET', key, 'state', 'RUNNING', 'epoch', epochs[i], 'runner', me, 'attempt', attempt, 'started_at', now)
    local at = #claims
    claims[at + 1], claims[at + 2], claims[at + 3], claims[at + 4] = id, epochs[i], attempt, task[1]
    claims[at + 5], claims[at + 6], claims[at + 7] = task[2] or '', task[5] or '', task[6] and '1' or ''
  end
  return true
end

local function tail(key, n)
  if n < 1 then
    return {}
  end
  return on(key, 'LRANGE', -n, -1) or {}
end

local function claim()
  local woken = tail(inbox, want)
  local line = tail(wait, want - #woken)
  local seen, found = {}, {}
  if not read(woken, seen, found) or not read(line, seen, found) or (#found > 0 and not claim_all(found)) then
    return false
  end
  if #woken > 0 then
    redis.call('LTRIM', inbox, 0, -#woken - 1)
  end
  if #line > 0 then
    redis.call('LTRIM', wait, 0, -#line - 1)
  end
  if #drops > 0 then
    on(counters, 'HINCRBY', 'dropped', #drops / 2)
  end
  -- An ID left in the inbox would wait for this runner alone.
  while #woken == want and redis.call('EXISTS', inbox) == 1 and on(inbox, 'LMOVE', wait, 'RIGHT', 'RIGHT') do
  end
  return #woken + #line == want
end

apply_items()
release()
local more = false
if want > 0 then
  more = claim()
end
redis.call('HSET', runner, 'batch', batch)
return { 'ok', now, codes, claims, drops, faults, more and 1 or 0 }
