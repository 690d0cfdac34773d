-- Puts a batch of new tasks in line. Called by Queue.Start.
--
-- KEYS[1] wait  [2] room
-- ARGV[1] base, `P:{Q}:`
-- then for each task: ID, nonce ('' for an ID that the client drew: that ID is its own nonce), n, and n strings: field, value, ...
-- With -n, what else the start says comes before those, as JSON: `options` as in the task's hash, and
--   at or delay_ms: when it is due;  expires_ms: how long after that it may wait
--   once: { key, ttl_ms (0: no end), release (end, start, never: with the TTL only), conflict (refuse, keep, replace) }
--   most_ms: how long after its first start a task that is replaced may be put off
--
-- Returns one string per task: `ok`; `exists:STATE` (the ID is waiting or running); `once:STATE:ID` (the unique key is that task's);
-- `kept:ID` (that task stands for this one); `broken:message` (its hash cannot be written);
-- or an error of the whole batch, with nothing in line: {err}.
local wait, base = KEYS[1], ARGV[1]

local length = try('LLEN', wait)
if failed(length) then
  return redis.error_reply('LINE ' .. length.err)
end

local now = clock()
local results, line = {}, {}
local refusal -- an error that is no task's own

-- A server that takes no writes just now, as a master does that has become a replica, refuses each task alike. Its error must be the
-- answer to the call: from that the client learns to look for another server. A full Redis is this one still, and tells each task.
local function fault(reply)
  if #line == 0 and unreachable(reply) and not string.find(reply.err, 'OOM', 1, true) then
    refusal = reply
  end
  return 'broken:' .. reply.err
end

local function write(id, key, at, n)
  local added = try('HSET', key, 'created_at', now, unpack(ARGV, at, at + n - 1))
  if failed(added) then
    return fault(added)
  end
  line[#line + 1] = id
  return 'ok'
end

local tasks = base .. 'task:'

-- Whether none of the IDs that a client drew has a key: asked once for all of them, for nearly always none has.
local function fresh()
  local keys, i = {}, 2
  while i <= #ARGV do
    if ARGV[i + 1] == '' then
      keys[#keys + 1] = tasks .. ARGV[i]
    end
    local n = tonumber(ARGV[i + 2])
    i = i + 3 + (n < 0 and 1 - n or n)
  end
  return #keys > 0 and try('EXISTS', unpack(keys)) == 0
end

local all_fresh = fresh()

-- Whether the ID of a start is taken; nil if it is free.
local function taken(id, nonce, key)
  if nonce == '' and all_fresh then
    return nil
  end
  local old = try('HMGET', key, 'nonce', 'state', 'task', 'log')
  if failed(old) then
    return fault(old)
  end
  if nonce == '' then -- a hash is there only if this is a replay of a start whose reply was lost: the task may have gone on since
    return old[3] and 'ok' or nil
  end
  if old[1] == nonce then
    return 'ok'
  end
  if old[2] and FINAL[old[2]] then
    unindex(base, id)
    if old[4] then
      redis.call('DEL', base .. 'log:' .. id)
    end
    redis.call('DEL', key)
  elseif old[2] or old[3] then
    return 'exists:' .. (old[2] or 'WAIT')
  end
end

-- What only starts that say more than name and data need.
local function specially()
  local h = holds(base, now)

  local function attempt(step, ...)
    local good, reply = pcall(step, ...)
    if good then
      return reply
    end
    return nil, fault({ err = type(reply) == 'table' and reply.err or tostring(reply) })
  end

  local function place(id, key, spec)
    local due = spec.at or (spec.delay_ms and now + spec.delay_ms)
    due = due and due > tonumber(now) and integer(due)
    if spec.expires_ms then
      redis.call('HSET', key, 'expires_at', integer((due or now) + spec.expires_ms))
    end
    if due then
      redis.call('HSET', key, 'state', 'SCHEDULED', 'due_at', due)
      h.schedule(id, due)
    elseif h.enqueue(id, spec.options, true) then
      line[#line + 1] = id
    end
    return 'ok'
  end

  local function put(id, key, spec, at, n)
    local added = try('HSET', key, 'created_at', now, unpack(ARGV, at, at + n - 1))
    if failed(added) then
      return fault(added)
    end
    local good, broken = attempt(place, id, key, spec)
    if broken then
      redis.call('DEL', key) -- it is on no key that would bring it in line
    end
    return good or broken
  end

  -- A start takes the place of one that has not begun: that one keeps its ID, and for a debounce comes later.
  local function replace(id, state, spec, at, n)
    local key = tasks .. id
    for i = at, at + n - 2, 2 do
      if ARGV[i] ~= 'nonce' then
        redis.call('HSET', key, ARGV[i], ARGV[i + 1])
      end
    end
    if state == 'SCHEDULED' and (spec.at or spec.delay_ms) then
      local due = spec.at or now + spec.delay_ms
      if spec.most_ms then
        due = math.min(due, (tonumber(redis.call('HGET', key, 'created_at')) or tonumber(now)) + spec.most_ms)
      end
      redis.call('HSET', key, 'due_at', integer(due))
      h.schedule(id, integer(due))
    end
    return 'kept:' .. id
  end

  local function begin(id, nonce, spec, at, n)
    local key = tasks .. id
    local answer = taken(id, nonce, key)
    if answer then
      return answer
    end
    local once = spec.once
    if not once then
      return put(id, key, spec, at, n)
    end
    local other, state = h.once(once.key, once.release)
    if not other or other == id then
      h.take_once(id, once.key, once.ttl_ms)
      return put(id, key, spec, at, n)
    elseif once.conflict == 'keep' then
      return 'kept:' .. other
    elseif once.conflict == 'replace' and state ~= 'RUNNING' then
      return replace(other, state, spec, at, n)
    end
    return 'once:' .. state .. ':' .. other
  end

  return function(...)
    local answer, broken = attempt(begin, ...)
    return answer or broken
  end
end

local special

local function start(i, n)
  local id, nonce = ARGV[i], ARGV[i + 1]
  if n < 0 then
    special = special or specially()
    local spec = cjson.decode(ARGV[i + 3])
    spec.options = spec.options or {}
    return special(id, nonce, spec, i + 4, -n)
  end
  local key = tasks .. id
  return taken(id, nonce, key) or write(id, key, i + 3, n)
end

local i = 2
while i <= #ARGV do
  local n = tonumber(ARGV[i + 2])
  results[#results + 1] = start(i, n)
  if refusal then
    return refusal
  end
  i = i + 3 + (n < 0 and 1 - n or n)
end
if #line > 0 then
  redis.call('LPUSH', wait, unpack(line))
end
return results
