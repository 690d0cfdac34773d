-- Shared by the scripts that put tasks in line, or take them out, after the prelude: what a task has beside its ID in `wait`.
-- Called as holds(base, now) for a task that has options, or whose name has limits: no other one pays for what is made here.
--
--   wait:high, wait:low   lists: the lines beside `wait`. Idle runners block on `wait` alone: '' in it says that there is something elsewhere
--   order:KEY             zset, ID -> place: ordered tasks of one key; only the first is in line or runs, until it is final
--   limit:L               set: the tasks that run and count for limit L, which is a task's name, or NAME:KEY
--   rate:L                list: when the last tasks that count for L began, the latest first
--   held:L                zset, ID -> place: tasks that came to their turn and wait for L
--   once:KEY              string: the ID of the task that has this unique key
--   timers                zset, held:L or order:KEY -> when to look at it again: a safety net, but for rates, of which it tells the next start
local function holds(base, now)
  local h = {}
  local wait, counter, scheduled, timers = base .. 'wait', base .. 'epoch', base .. 'scheduled', base .. 'timers'
  local LOOK, MOST = 5000, 64 -- ms between two looks, tasks at most in one step
  local LINES = { high = wait .. ':high', low = wait .. ':low' }

  local function text(value)
    return type(value) == 'string' and value ~= '' and value or nil
  end

  local function key_of(id)
    return base .. 'task:' .. id
  end

  -- Fields of a record; none of one that is broken for good.
  local function read(id, ...)
    local found = try('HMGET', key_of(id), ...)
    if unreachable(found) then
      return redis.call('HMGET', key_of(id), ...)
    end
    return failed(found) and {} or found
  end

  -- Options as a table. What is not a JSON object is for the runner to complain of.
  function h.options(json)
    local good, found = pcall(cjson.decode, json or '')
    return good and type(found) == 'table' and found or {}
  end

  -- Calls a function of this table. That a key holds another type is an answer, nil and the message; what else may be wrong is raised.
  function h.safely(name, ...)
    local good, reply = pcall(h[name], ...)
    if good then
      return reply
    end
    local message = type(reply) == 'table' and reply.err or tostring(reply)
    if not string.find(message, 'WRONGTYPE', 1, true) then
      error(reply)
    end
    return nil, message
  end

  local function arm(timer, at)
    redis.call('ZADD', timers, 'LT', integer(at), timer)
  end

  -- Whoever was taken from KEY may have been the last for whom there is a timer; `least` are there that wait for nobody.
  local function end_timer(timer, key, least)
    if redis.call('ZCARD', key) <= least then
      redis.call('ZREM', timers, timer)
    end
  end

  -- IDs do not wait for a limit any more.
  local function unhold(limit, ids)
    if redis.call('ZREM', base .. 'held:' .. limit, unpack(ids)) > 0 then
      end_timer('held:' .. limit, base .. 'held:' .. limit, 0)
    end
  end

  -- Wakes an idle runner for tasks in the lines beside `wait`.
  function h.wake()
    if redis.call('LLEN', wait) == 0 then
      redis.call('LPUSH', wait, '')
    end
  end

  -- Puts an ID at the end of its line, or at the front of it.
  local function push(id, options, front)
    local line = LINES[options.priority]
    if front then
      redis.call('RPUSH', line or wait, id)
    else
      redis.call('LPUSH', line or wait, id)
    end
    if line then
      h.wake()
    end
  end

  -- Whether a task is the first of its key. It takes its place there now, if it has none.
  local function first(id, key)
    local lane = base .. 'order:' .. key
    if not redis.call('ZSCORE', lane, id) then
      redis.call('ZADD', lane, integer(redis.call('INCR', counter)), id)
    end
    if redis.call('ZRANGE', lane, 0, 0)[1] == id then
      return true
    end
    arm('order:' .. key, now + LOOK)
    return false
  end

  -- Puts a task in line: an ordered one only if it is the first of its key. With `plain`, one that goes to the end of `wait` is left to the
  -- caller, and this returns true.
  function h.enqueue(id, options, plain)
    local key = text(options.key)
    if options.ordered == true and key and not first(id, key) then
      return false
    end
    if plain and not LINES[options.priority] then
      return true
    end
    push(id, options)
    return false
  end

  -- Schedules a task. Runners sleep until the next due time that they know: of an earlier one they are told.
  function h.schedule(id, due)
    redis.call('ZADD', scheduled, due, id)
    if redis.call('ZRANGE', scheduled, 0, 0)[1] == id then
      redis.call('PUBLISH', base .. 'control:', 'due ' .. due)
    end
  end

  -- Brings tasks that wait for a limit to the front of their lines, those that wait longest first. Whether they may run shows there.
  local function bring(limit, n)
    local ids = redis.call('ZRANGE', base .. 'held:' .. limit, 0, math.min(n, MOST) - 1)
    for i = #ids, 1, -1 do
      local found = read(ids[i], 'state', 'options', 'held_by')
      if (not found[1] or found[1] == 'WAIT') and found[3] == limit then
        push(ids[i], h.options(found[2]), true)
      end
    end
    if #ids > 0 then
      unhold(limit, ids)
    end
  end

  local function limits_of(name, options)
    local key = text(options.key)
    return key and { name .. ':' .. key, name } or { name }
  end

  -- What the runner's limits say of a name: for the name, and for its key.
  local function bounds(name, options, limit)
    local list = {}
    local function add(l, most, rate, per)
      list[#list + 1] = { name = l, most = tonumber(most), rate = tonumber(rate), per = tonumber(per) }
    end
    local key = text(options.key)
    if key then
      add(name .. ':' .. key, limit.key_concurrency, limit.key_rate, limit.key_per_ms)
    end
    add(name, limit.concurrency, limit.rate, limit.per_ms)
    return list
  end

  -- How many more tasks may begin under a rate now, at most MOST; and if none, when the next one may.
  local function rest(bound)
    local starts = base .. 'rate:' .. bound.name
    local known = math.min(redis.call('LLEN', starts), bound.rate) -- a higher rate may have left more
    local free = bound.rate - known
    for _, at in ipairs(redis.call('LRANGE', starts, math.max(0, known - MOST), known - 1)) do
      if now - at >= bound.per then
        free = free + 1
      end
    end
    if free > 0 then
      return math.min(free, MOST)
    end
    return 0, redis.call('LINDEX', starts, bound.rate - 1) + bound.per
  end

  -- How many more tasks may run under a bound; and for a rate, when the next one may.
  local function room(id, bound)
    local free = MOST
    if bound.most then
      local holders = base .. 'limit:' .. bound.name
      free = math.min(free, bound.most - redis.call('SCARD', holders))
      if free <= 0 and redis.call('SISMEMBER', holders, id) == 0 then
        return 0, nil
      end
    end
    if bound.rate then
      local left, at = rest(bound)
      return math.min(math.max(free, 1), left), at
    end
    return math.max(free, 1)
  end

  -- The task has come to its turn too early: it waits for a limit, at the place that it has there if it came before.
  local function hold(id, bound, place, at)
    place = place or integer(redis.call('INCR', counter))
    redis.call('HSET', key_of(id), 'held_by', bound.name, 'place', place)
    redis.call('ZADD', base .. 'held:' .. bound.name, place, id)
    arm('held:' .. bound.name, at or now + LOOK)
    return false, at
  end

  local function occupy(id, bound)
    if bound.most then
      redis.call('SADD', base .. 'limit:' .. bound.name, id)
    end
    if bound.rate then
      local starts = base .. 'rate:' .. bound.name
      redis.call('LPUSH', starts, now)
      redis.call('LTRIM', starts, 0, bound.rate - 1)
      redis.call('PEXPIRE', starts, bound.per)
    end
  end

  -- By name of a limit, what a claim leaves for when it has taken its IDs from the line, whose front must not change before.
  local later = {}

  -- A task that one limit brought forward waits for another one now, or that limit is none any more, since a registration has changed: the
  -- next ones of it have their turn, which nobody else would bring forward before the timer.
  local function pass_turn(held, list, refusing)
    for _, bound in ipairs(list) do
      if bound.name == held then
        later[held] = later[held] or bound ~= refusing and { bound = bound, more = 1 } or nil
        return
      end
    end
    later[held] = { bound = { name = held }, more = MOST }
  end

  -- Whether one that a limit brought forward is next in a line.
  local function is_next(limit)
    for _, line in ipairs({ wait, LINES.high, LINES.low }) do
      local id = redis.call('LINDEX', line, -1)
      if id and read(id, 'held_by')[1] == limit then
        return true
      end
    end
  end

  -- Brings those forward that may run beside a task that just began, but not in front of one that was brought before. Under a rate that is
  -- used up, returns when the next one may.
  function h.follow()
    local due
    for name, task in pairs(later) do
      local bound = task.bound
      if task.more > 0 and not is_next(name) then
        bring(name, task.more)
      end
      if bound.rate and redis.call('EXISTS', base .. 'held:' .. name) == 1 then
        local free, at = rest(bound)
        if free == 0 then
          arm('held:' .. name, at)
          due = due and math.min(due, at) or at
        end
      end
    end
    return due
  end

  function h.give_up_once(id, options)
    local key = type(options.once) == 'table' and text(options.once.key)
    if key and redis.call('GET', base .. 'once:' .. key) == id then
      redis.call('DEL', base .. 'once:' .. key)
    end
  end

  -- Whether a task whose turn it is may run; if not, it is listed where it will come forward. `limit` is what the runner says of its name.
  -- `place` and `held` are what the task has of the limit that it waited for. Returns also when to look again, if a rate says so.
  function h.admit(id, name, options, limit, place, held)
    local key = text(options.key)
    if options.ordered == true and key and not first(id, key) then
      return false
    end
    local list = limit and bounds(name, options, limit) or {}
    local rooms = {}
    for i, bound in ipairs(list) do
      local free, at = room(id, bound)
      if free == 0 or (not place and redis.call('EXISTS', base .. 'held:' .. bound.name) == 1) then
        if place then
          pass_turn(held, list, bound)
        end
        return hold(id, bound, place, at)
      end
      rooms[i] = free
    end
    for i, bound in ipairs(list) do
      occupy(id, bound)
      if place then -- it was brought forward alone: there may be room for others, which each bound lets come although another may refuse them
        later[bound.name] = { bound = bound, more = rooms[i] - 1 }
      end
    end
    if place then
      unhold(held or '', { id }) -- it may be in line twice
      redis.call('HDEL', key_of(id), 'place', 'held_by')
      pass_turn(held, list)
    end
    if type(options.once) == 'table' and options.once.release == 'start' then
      h.give_up_once(id, options)
    end
    return true
  end

  -- The first of a key is final: the next one that can run goes in line.
  local function pass_on(id, key)
    local lane = base .. 'order:' .. key
    local was_first = redis.call('ZRANGE', lane, 0, 0)[1] == id
    redis.call('ZREM', lane, id)
    for n = 1, was_first and MOST or 0 do
      local following = redis.call('ZRANGE', lane, 0, 0)[1]
      local found = following and read(following, 'task', 'state', 'options')
      if not found then
        break
      elseif found[1] and not FINAL[found[2]] then
        if not found[2] or found[2] == 'WAIT' then
          push(following, h.options(found[3]), true)
        end
        break
      elseif n == MOST then
        return -- more are gone than one step passes over: that its first is gone is what the timer looks for
      end
      redis.call('ZREM', lane, following)
    end
    end_timer('order:' .. key, lane, 1)
  end

  -- Options of a task that waits change: it does not stay in an order that it is not in any more. Returns whether it has left one.
  function h.leave_order(id, old, new)
    local key = old.ordered == true and text(old.key)
    if not key or (new.ordered == true and text(new.key) == key) then
      return false
    end
    pass_on(id, key)
    return true
  end

  -- A task leaves the place where it waits for a limit. It may have been brought forward in the place of another one.
  function h.step_back(id)
    local held = redis.call('HGET', key_of(id), 'held_by')
    if held then
      unhold(held, { id })
      redis.call('HDEL', key_of(id), 'place', 'held_by')
      bring(held, 1)
    end
  end

  -- A run of the task has ended, or the task has left the line: others may have its places. `final`: the task itself is over; `again`: it is
  -- next in line, and comes before those that have waited for its place since it began.
  function h.leave(id, name, options, final, again)
    for _, limit in ipairs(limits_of(name, options)) do
      if redis.call('SREM', base .. 'limit:' .. limit, id) == 1 then
        bring(limit, 1)
        if again then
          redis.call('HSET', key_of(id), 'held_by', limit, 'place', redis.call('HGET', key_of(id), 'epoch'))
        end
      end
    end
    if not final then
      return
    end
    h.step_back(id)
    if not (type(options.once) == 'table' and options.once.release == 'never') then
      h.give_up_once(id, options)
    end
    local key = text(options.key)
    if options.ordered == true and key then
      pass_on(id, key)
    end
  end

  -- The ID of the live task that has a unique key; nil if there is none. A key that outlasts its task is taken for its time.
  function h.once(key, release)
    local id = redis.call('GET', base .. 'once:' .. key)
    if not id then
      return nil
    end
    local found = read(id, 'task', 'state')
    if release == 'never' or (found[1] and not FINAL[found[2]]) then
      return id, found[2] or 'WAIT'
    end
  end

  function h.take_once(id, key, ttl)
    if ttl and ttl > 0 then
      redis.call('SET', base .. 'once:' .. key, id, 'PX', integer(ttl))
    else
      redis.call('SET', base .. 'once:' .. key, id)
    end
  end

  -- Whether a task that runs again has its unique key, or could take it again.
  function h.retake_once(id, options)
    local once = options.once
    local key = type(once) == 'table' and text(once.key)
    if not key or once.release == 'never' then
      return true
    end
    local other = h.once(key)
    if other and other ~= id then
      return false
    end
    h.take_once(id, key, tonumber(once.ttl_ms))
    return true
  end

  -- Takes places from tasks that do not run any more, whatever made them keep these.
  local function evict(limit)
    local holders = base .. 'limit:' .. limit
    for _, id in ipairs(redis.call('SRANDMEMBER', holders, MOST)) do
      local found = read(id, 'state', 'runner', 'epoch')
      local member = (found[3] or '') .. ':' .. id
      if found[1] ~= 'RUNNING' or redis.call('SISMEMBER', base .. 'running:' .. (found[2] or ''), member) == 0 then
        redis.call('SREM', holders, id)
      end
    end
  end

  -- Looks at what a timer is for.
  function h.look(timer)
    local kind, name = string.match(timer, '^(%a+):(.*)$')
    redis.call('ZADD', timers, integer(now + LOOK), timer) -- before what may fail
    if kind == 'held' then
      evict(name)
      bring(name, 1)
      end_timer(timer, base .. timer, 0)
    elseif kind == 'order' then
      local id = redis.call('ZRANGE', base .. timer, 0, 0)[1]
      local found = id and read(id, 'task', 'state')
      if found and (not found[1] or FINAL[found[2]]) then
        pass_on(id, name)
      else
        end_timer(timer, base .. timer, 1)
      end
    end
  end

  return h
end

-- Puts a task that is scheduled in line, at its end. `h` is what holds() made, for a task that has options. It comes into the line before it
-- leaves the schedule: cut in between it is on both, and a claim drops what is SCHEDULED.
local function put_in_line(h, wait, scheduled, key, id, options)
  if not options or h.safely('enqueue', id, h.options(options), true) ~= false then
    redis.call('LPUSH', wait, id) -- also where a key of its order is broken: its claim will say what is wrong
  end
  redis.call('HDEL', key, 'state', 'due_at')
  redis.call('ZREM', scheduled, id)
end

-- A task that is not in a runner's hands is over: what it holds goes. Its name may have limits although it has no options; then it waits
-- for one.
local function let_go(base, now, id, task, options)
  if options or try('HEXISTS', base .. 'task:' .. id, 'held_by') == 1 then
    local h = holds(base, now)
    h.safely('leave', id, task or '', h.options(options), true)
  end
end
