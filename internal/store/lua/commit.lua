-- Applies one batch of what a runner's tasks did, in order, then claims more: the only round trip of the steady state.
-- Called by Queue.Commit.
--
-- KEYS[1] wait  [2] running:RUNNER  [3] inbox:RUNNER  [4] runner:RUNNER  [5] control:RUNNER  [6] epoch  [7] scheduled  [8] counters
-- KEYS[9] room
-- ARGV[1] base, `P:{Q}:`  [2] runner ID  [3] number of this batch  [4] number of the one that is under way before it, or 0
-- ARGV[5] tasks to claim at most  [6] F, the number of fenced items; ARGV[7 .. 6+F] their members `EPOCH:ID`, in the order of the items
-- then the items; `event` is an event's JSON, `index` where a final task is listed:
--   emit      ID event
--   write     ID n field value ...                                (n strings follow it)
--   STATE     ID n event index field value ...                    the run ends in a final state
--   WAIT      ID n event index field value ...                    back to the head of the line; index is for a pending stop that wins
--   SCHEDULED ID n event index delay_ms field value ...           due later
--   REMOVED   ID n event                                          a local task leaves no record
--   swap      ID n new_member new_epoch data event index          a reload worked: the new instance takes over; event and index are for
--                                                                 a pending stop that wins; index REMOVED: a local task
--   keep      ID n data_tried data_running                        a reload failed: the old instance stays
--   log       ID n most first line ...                            lines for the task's log, which holds so many at most; first: the number
--                                                                 of the first of these in the run, from 1
--   special   ID n op ...                                         the same for a task that has options, or limits: what it holds goes too
--
-- Returns {'unregistered'}: this runner's lease is gone, nothing was done; {'early'}: nothing was done, the one before has not come yet;
-- {'replayed', now}: the batch had been applied before;
-- {'ok', now, codes, claims, last_epoch, drops, faults, unclaimed, extras, due}:
--   codes of those fenced items that are not simply done: their number, from 1, and lost (the epoch is no more this runner's), stopped
--   (a pending stop won), broken:message, or away:message (its key cannot be used just now: say it again);
--   claims, five strings each: id, attempt, task, data, marks (k: keep its record, r: a reload is pending); last_epoch is the last
--   claim's, and those before have the numbers before; drops: id, reason; faults: messages about keys; unclaimed: whether IDs may
--   remain in line, or -1 if the queue is paused; extras, only if a claim has some: number of the claim, its options, its restarts, what
--   refuses it; due: when a rate lets the next task begin, ms.
--
-- Making a function costs about as much as a short command, in every call: what the steady state does not need is made in `rarely` and
-- `refuse`, when it is needed.
local wait, running, inbox, runner, control, counter, scheduled, counters = unpack(KEYS)
local base, me, batch, before, want, fenced = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local tasks, events = base .. 'task:', base .. 'events:'
local call, protected, type = redis.call, redis.pcall, type -- locals are found faster

-- A removal first: a full Redis (noeviction) accepts the writes of a script that began with one.
redis.call('SREM', running, '')
local about_me = redis.call('HMGET', runner, 'batch', 'limits')
local last, limits = about_me[1], about_me[2]
if not last then
  return { 'unregistered' }
end
local now = clock()
if tonumber(last) >= tonumber(batch) then
  return { 'replayed', now }
end
if tonumber(last) < tonumber(before) then
  return { 'early' }
end

local codes, claims, drops, faults = {}, {}, {}, {}
local gone, settled = {}, {}           -- members to remove from running, IDs whose pending intent is settled
local left = {}                        -- members whose claim has ended: by an earlier item of this batch, or by a later claim
local joined = {}                      -- members that a swap of this batch has made
local back, back_members = {}, {}
local final = {}                       -- index -> {score, id, ...}
-- What else the claims have for the reply: in a table, since in miniredis a caught error parts the variables that functions share with
-- this chunk.
local late = { epoch = '' }
local held_by_tasks                    -- what holds() made
local pending = try('HLEN', control)
local intents = not failed(pending) and pending > 0

-- A call on a key of the queue that may hold anything. Once the first event is out nothing here may raise an error, but for a right that
-- is lacking: the batch would be sent again, and its events with it.
local function on(key, command, ...)
  local reply = try(command, key, ...)
  if failed(reply) then
    faults[#faults + 1] = key .. ': ' .. reply.err
    return nil
  end
  return reply
end

-- What tasks with options hold, and those whose name has limits. A key of theirs that holds another type must not end the batch.
local function on_holds(name, ...)
  held_by_tasks = held_by_tasks or holds(base, now)
  local good, reply, at = pcall(held_by_tasks[name], ...)
  if good then
    return reply, at
  end
  local message = type(reply) == 'table' and reply.err or tostring(reply)
  if denied(message) then
    return error(reply)
  end
  return nil, message
end

-- One HSET a transition: ARGV[at] to ARGV[to] are fields that go with the state. The event comes whole: Lua hashes each string that it
-- makes, byte by byte, and events are the longest.
local function finish(id, key, state, index, event, member, at, to)
  local reply, broken
  if to < at then
    reply = protected('HSET', key, 'state', state, 'ended_at', now)
  else
    reply = protected('HSET', key, 'state', state, 'ended_at', now, unpack(ARGV, at, to))
  end
  if type(reply) == 'table' then -- an error; `try` raises it if it is for a right that is lacking
    reply = try('HSET', key, 'state', state, 'ended_at', now, unpack(ARGV, at, to))
    broken = failed(reply)
    if broken and unreachable(reply) then
      return 'away:' .. reply.err
    end
  end
  local scores = final[index]
  if not scores then
    scores = {}
    final[index] = scores
  end
  if not broken then
    local n = #scores
    scores[n + 1], scores[n + 2] = now, id
  end
  gone[#gone + 1] = member
  if intents then
    settled[#settled + 1] = id
  end
  call('PUBLISH', events .. id, event)
  return broken and 'broken:' .. reply.err or nil
end

-- The items of the less common kinds.
local function rarely()
  local apply = {}

  local function publish(id, event)
    redis.call('PUBLISH', events .. id, event)
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

  -- A restart that was promised comes true even if the run ended before it was told, in whatever way. The event's last `,"id":` is its
  -- own: within its data a quote in a string is escaped, and what is not in a string stands before.
  local function restart(id, key, event, member)
    try('HDEL', key, 'output', 'error', 'stack', 'progress')
    try('HSET', key, 'attempt', '0')
    put_back(id, member)
    publish(id, '{"event":"wait","data":{"reason":"restarted"}' .. string.match(event, '.*(,"id":.*)$'))
  end

  -- A pending stop beats what would put the task back; its event is that of the item, of another kind.
  local function stop(id, key, index, event, member, at, to)
    event = '{"event":"stopped"' .. string.sub(event, string.find(event, ',', 1, true), -1)
    return finish(id, key, 'STOPPED', index, event, member, at, to) or 'stopped'
  end

  for state in pairs(FINAL) do
    apply[state] = function(id, key, at, n, member)
      local to = at + n - 1
      if state == 'STOPPED' or intent(id) ~= 'restart' then
        return finish(id, key, state, ARGV[at + 1], ARGV[at], member, at + 2, to)
      end
      local broken, away = set(key, at + 2, to)
      if not away then
        restart(id, key, ARGV[at], member)
      end
      return broken
    end
  end

  function apply.WAIT(id, key, at, n, member)
    local event, to, word = ARGV[at], at + n - 1, intent(id)
    if word == 'stop' then
      return stop(id, key, ARGV[at + 1], event, member, at + 2, to)
    end
    local broken, away = set(key, at + 2, to)
    if away then
      return broken
    elseif word == 'restart' then
      restart(id, key, event, member)
      return broken
    end
    put_back(id, member)
    publish(id, event)
    return broken
  end

  function apply.SCHEDULED(id, key, at, n, member)
    local event, to, word = ARGV[at], at + n - 1, intent(id)
    if word == 'stop' then
      return stop(id, key, ARGV[at + 1], event, member, at + 3, to)
    end
    local broken, away = set(key, at + 3, to)
    if away then
      return broken
    elseif word == 'restart' then
      restart(id, key, event, member)
      return broken
    end
    local due = integer(now + ARGV[at + 2])
    if not on(scheduled, 'ZADD', due, id) then
      return 'broken:' .. faults[#faults]
    end
    try('HSET', key, 'state', 'SCHEDULED', 'due_at', due)
    try('HDEL', key, 'runner', 'started_at', 'recoveries')
    let_go(id, member)
    publish(id, event)
    return broken
  end

  -- A local task leaves no record.
  function apply.REMOVED(id, key, at, _, member)
    try('DEL', key)
    let_go(id, member)
    publish(id, ARGV[at])
  end

  function apply.write(_, key, at, n)
    return (set(key, at, at + n - 1))
  end

  function apply.swap(id, key, at, n, member)
    local new_member, epoch, data, event, index = unpack(ARGV, at, at + 4)
    local word = intent(id)
    if word == 'stop' and index == 'REMOVED' then
      apply.REMOVED(id, key, at + 3, 1, member)
      return 'stopped'
    elseif word == 'stop' then
      return finish(id, key, 'STOPPED', index, event, member, 2, 1) or 'stopped'
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
    local latest = newest or found[2]
    if (latest and latest ~= '' and latest or 'null') == data and word ~= 'restart' then
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

  -- Lines of a run that the log has already are left out: a batch of which nobody knows whether it was applied is said again. Numbers that
  -- are missing are lines that a full buffer lost: they count as well.
  function apply.log(id, key, at, n, member)
    left[member] = false
    local most, first, to = ARGV[at], tonumber(ARGV[at + 1]), at + n - 1
    local found = try('HMGET', key, 'log', 'log_last')
    if failed(found) then
      return 'broken:' .. found.err
    end
    local epoch = string.match(member, '^%d+')
    local last = tonumber(string.match(found[2] or '', '^' .. epoch .. ':(%d+)$') or 0)
    local from, newest = at + 2 + math.max(0, last - first + 1), first + to - at - 2
    if from > to then
      return nil
    end
    local lines = base .. 'log:' .. id
    redis.call('HSET', key, 'log', integer((tonumber(found[1] or 0) or 0) + newest - last), 'log_last', epoch .. ':' .. integer(newest))
    local length = try('RPUSH', lines, unpack(ARGV, from, to))
    if failed(length) then
      return 'broken:' .. length.err
    elseif length > tonumber(most) then
      redis.call('LTRIM', lines, '-' .. most, -1)
    end
  end

  -- Another item of a task that holds something: when its run ends others may have that.
  function apply.special(id, key, at, n, member)
    local op = ARGV[at]
    local code = apply[op](id, key, at + 1, n - 1, member)
    if code and string.sub(code, 1, 5) == 'away:' then
      return code
    end
    local found = try('HMGET', key, 'task', 'options', 'state')
    local final = not failed(found) and FINAL[found[3]]
    if final or op == 'WAIT' or op == 'SCHEDULED' or FINAL[op] then
      local options = on_holds('options', found[2])
      local _, fault = on_holds('leave', id, found[1] or '', options, final, found[3] == 'RUNNING')
      if fault then
        faults[#faults + 1] = fault
      end
    end
    return code
  end

  return apply
end

local function apply_items()
  local argv, held, apply = ARGV, nil, nil
  if fenced > 0 then
    held = redis.call('SMISMEMBER', running, unpack(argv, 7, 6 + fenced))
  end
  local i, fence, length = 7 + fenced, 0, #argv
  while i <= length do
    local op, id = argv[i], argv[i + 1]
    if op == 'emit' then
      call('PUBLISH', events .. id, argv[i + 2])
      i = i + 3
    else
      fence = fence + 1
      local n, member, key = tonumber(argv[i + 2]), argv[6 + fence], tasks .. id
      local code
      if left[member] or (held[fence] ~= 1 and not joined[member]) then
        code = 'lost'
      else
        left[member] = op ~= 'write' and op ~= 'keep'
        -- A record that someone deleted or changed by hand may have been claimed anew: then it is the later run's, although this one's
        -- member is still there. Without an epoch, or a hash, nobody else has it.
        local epoch = protected('HGET', key, 'epoch')
        if type(epoch) == 'table' then
          epoch = try('HGET', key, 'epoch')
        end
        if type(epoch) == 'string' and epoch .. ':' .. id ~= member then
          code = 'lost'
          left[member], gone[#gone + 1] = true, member
        elseif FINAL[op] and not intents then
          code = finish(id, key, op, argv[i + 4], argv[i + 3], member, i + 5, i + 2 + n)
        else
          apply = apply or rarely()
          code = apply[op](id, key, i + 3, n, member)
        end
      end
      if code then
        codes[#codes + 1], codes[#codes + 2] = fence, code
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
        try('HDEL', tasks .. back[i], 'state', 'runner', 'started_at', 'recoveries')
        gone[#gone + 1], settled[#settled + 1] = member, back[i]
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
  if id == '' then
    return -- it woke a runner: see peek
  end
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

-- Whether a record that is in line and ran before runs all the same: only one that was changed by hand names a runner then. Returns the
-- number of the next attempt too, and data of a reload that never came about.
local function history(id, key, epoch)
  local found = redis.call('HMGET', key, 'attempt', 'reload_data', 'runner', 'error', 'restarts')
  local runs = found[3] and try('SISMEMBER', base .. 'running:' .. found[3], (epoch or '') .. ':' .. id) == 1
  if found[4] and not runs then
    redis.call('HDEL', key, 'error', 'stack') -- of the attempt before, which the history has
  end
  return runs, integer((tonumber(found[1]) or 0) + 1), found[2], found[5]
end

-- Whether a task that has options, or whose name has limits, may run now. What its runner must know goes with the claim, under its number.
-- nil if a key cannot be used just now.
local function admit(id, key, name, json, restarts, number, began)
  local found = redis.call('HMGET', key, 'place', 'expires_at', 'held_by')
  local options = on_holds('options', json)
  local refusal = not began and tonumber(found[2] or '') and tonumber(found[2]) < tonumber(now) and 'expired' or ''
  local bounds = refusal == '' and limits and limits[name] -- what does not begin counts for no limit
  local good, at = on_holds('admit', id, name, options, bounds, found[1], found[3])
  if good == nil then
    if not string.find(at, 'WRONGTYPE', 1, true) then
      faults[#faults + 1] = at
      return nil
    end
    refusal = at -- it ends where someone will see it
    good, at = true, nil
  end
  late.due = at and (not late.due or at < late.due) and at or late.due
  if good and (json or restarts or refusal ~= '') then
    local extras = late.extras or {}
    late.extras = extras
    local n = #extras
    extras[n + 1], extras[n + 2], extras[n + 3], extras[n + 4] = number, json or '', restarts or '', refusal
  end
  return good
end

-- Looks at an ID that is next; returns false if a key of the queue is broken: then all stay in line.
local function look(id, key, record, found)
  local state, runs, attempt, reload, restarts = record[3], false, '1', false, false
  if state and state ~= 'WAIT' then
    drop(id, 'it is ' .. state .. (FINAL[state] and '; to run it again set its state to WAIT, then push it' or ''))
    return true
  end
  if state or record[4] then -- it ran before; without both it has no more than its start wrote
    runs, attempt, reload, restarts = history(id, key, record[4])
  end
  local name, json = record[1], record[6]
  if runs then
    redis.call('HSET', key, 'state', 'RUNNING')
    drop(id, 'it runs; its state was set to WAIT by hand')
  elseif name then
    found.seen[id] = true
    local n = #found.ids + 1
    if json or restarts or record[7] or (limits and limits[name]) then
      local admitted = admit(id, key, name, json, restarts, n, record[4])
      if not admitted then
        return admitted ~= nil
      end
    end
    found.ids[n], found.keys[n], found.again[n], found.attempts[n] = id, key, state, attempt
    local at = #claims
    claims[at + 1], claims[at + 2], claims[at + 3], claims[at + 4] = id, attempt, name, record[2] or ''
    claims[at + 5] = (record[5] and record[5] ~= '' and 'k' or '') .. (reload and not state and 'r' or '')
  elseif redis.call('EXISTS', key) == 1 then
    return refuse(id, key, 'the hash has no field `task`: HSET it to the name of a task, then start the ID again')
  else
    drop(id, 'there is no hash with this ID')
  end
  return true
end

local function read(ids, found)
  for i = 1, #ids do
    local id = ids[i]
    local key = tasks .. id
    local record = protected('HMGET', key, 'task', 'data', 'state', 'epoch', 'keep', 'options', 'held_by')
    if record.err then
      record = try('HMGET', key, 'task', 'data', 'state', 'epoch', 'keep', 'options', 'held_by')
    end
    if found.seen[id] then
      drop(id, 'in line twice')
    elseif record.err then
      if unreachable(record) then
        faults[#faults + 1] = key .. ': ' .. record.err
        return false
      end
      drop(id, 'its key holds no hash: ' .. record.err)
    elseif not look(id, key, record, found) then
      return false
    end
  end
  return true
end

local function take(found)
  local n = #found.ids
  local drawn = on(counter, 'INCRBY', n)
  if not drawn then
    return false
  end
  local members, epochs = {}, {}
  for i = 1, n do
    local epoch = integer(drawn - n + i)
    epochs[i], members[i] = epoch, epoch .. ':' .. found.ids[i]
  end
  late.epoch = epochs[n]
  redis.call('SADD', running, unpack(members))
  for i = 1, n do
    local key = found.keys[i]
    if found.again[i] then -- an explicit WAIT: someone started a final task again by hand, with the data that is there now
      unindex(base, found.ids[i])
      redis.call('HDEL', key, 'ended_at', 'error', 'output', 'stack', 'progress', 'recoveries', 'reload_data')
    end
    call('HSET', key, 'state', 'RUNNING', 'epoch', epochs[i], 'runner', me, 'attempt', found.attempts[i], 'started_at', now)
  end
  return true
end

-- The lines in the order in which they are looked at: mostly those of higher priority first, but each comes first often enough not to starve.
local function lines()
  local turn = tonumber(on(runner, 'HINCRBY', 'turn', 1) or 0) % 10
  local high, low = wait .. ':high', wait .. ':low'
  if turn == 0 then
    return { low, wait, high }
  elseif turn % 3 == 0 then
    return { wait, high, low }
  end
  return { high, wait, low }
end

-- What is left in the inbox would wait for this runner alone.
local function empty_inbox()
  while redis.call('EXISTS', inbox) == 1 and on(inbox, 'LMOVE', wait, 'RIGHT', 'RIGHT') do
  end
end

-- Takes up to n IDs from the right of a list, without removing them; returns how many elements these are. What woke a runner for the lines
-- beside is no ID, unless somebody made a task of it, and must not take the slot of one: there is one of it at most, so one more is read.
local function peek(list, n, ids)
  local found = n > 0 and on(list, 'LRANGE', '-' .. n + 1, '-1') or {}
  local most, seen = #ids + n, 0
  for i = #found, 1, -1 do
    if found[i] ~= '' or redis.call('EXISTS', tasks) == 1 then
      if #ids == most then
        break
      end
      ids[#ids + 1] = found[i]
    end
    seen = seen + 1
  end
  return seen
end

-- Returns 1 if IDs may remain in line, -1 if the queue is paused; and whether a broken key kept it from claiming.
local function claim()
  local ids, sources, counts = {}, { inbox, wait }, {}
  local beside = protected('EXISTS', base .. 'paused', wait .. ':high', wait .. ':low')
  if beside ~= 0 then
    if redis.call('EXISTS', base .. 'paused') == 1 then
      empty_inbox()
      return -1
    end
    sources = lines()
    table.insert(sources, 1, inbox)
  end
  for i = 1, #sources do
    counts[i] = peek(sources[i], want - #ids, ids)
  end
  local found = { ids = {}, keys = {}, again = {}, attempts = {}, seen = {} }
  limits = limits and cjson.decode(limits)
  if not read(ids, found) or (found.ids[1] and not take(found)) then
    return 0, true
  end
  for i = 1, #sources do
    if counts[i] > 0 then
      redis.call('LTRIM', sources[i], 0, -counts[i] - 1)
    end
  end
  if #drops > 0 then
    on(counters, 'HINCRBY', 'dropped', #drops / 2)
  end
  if counts[1] >= want then
    empty_inbox()
  end
  if held_by_tasks then
    local at = on_holds('follow')
    late.due = at and (not late.due or at < late.due) and at or late.due
  end
  if #ids == want and beside ~= 0 and protected('EXISTS', wait .. ':high', wait .. ':low') ~= 0 then
    on_holds('wake') -- others can take what this runner has no slot for
  end
  return #ids == want and 1 or 0
end

apply_items()
release()
local more, failed_claim = 0, false
if want > 0 then
  more, failed_claim = claim()
end
redis.call('HSET', runner, 'batch', batch)
if failed_claim then
  return { 'ok', now, codes, {}, '', drops, faults, more }
end
local reply = { 'ok', now, codes, claims, late.epoch, drops, faults, more }
if late.extras or late.due then
  reply[9], reply[10] = late.extras or {}, late.due and integer(late.due) or ''
end
return reply
