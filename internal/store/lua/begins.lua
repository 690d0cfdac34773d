-- Shared by the scripts that start tasks, after holds: the start of a task that says more than name and data, as JSON:
--   options: as in the task's hash
--   at or delay_ms: when it is due;  expires_ms: how long after that it may wait
--   once: { key, ttl_ms (0: no end), release (end, start, never: with the TTL only), conflict (refuse, keep, replace) }
--   most_ms: how long after its first start a task that is replaced may be put off
--
-- begins(base, now, fault) returns a function of ID, that JSON, a list of field, value, ... and what removes a record that the ID has. It
-- returns `ok`, `once:STATE:ID`, `kept:ID`, or what fault makes of an error; and the ID if its place is at the end of `wait`, where the caller
-- puts it.
local function begins(base, now, fault)
  local h = holds(base, now)

  local function attempt(step, ...)
    local good, reply, plain = pcall(step, ...)
    if good then
      return reply, plain
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
      return 'ok', id
    end
    return 'ok'
  end

  local function put(id, key, spec, fields)
    local added = try('HSET', key, 'created_at', now, unpack(fields))
    if failed(added) then
      return fault(added)
    end
    local good, plain = attempt(place, id, key, spec)
    if not good then
      redis.call('DEL', key) -- it is on no key that would bring it in line
      return plain
    end
    return good, plain
  end

  -- A start takes the place of one that has not begun: that one keeps its ID, and for a debounce comes later.
  local function replace(id, state, spec, fields)
    local key = base .. 'task:' .. id
    redis.call('HDEL', key, 'keep', 'expires_at') -- which not every start has
    local moved = h.leave_order(id, h.options(redis.call('HGET', key, 'options')), spec.options)
    for i = 1, #fields, 2 do
      if fields[i] ~= 'nonce' then
        redis.call('HSET', key, fields[i], fields[i + 1])
      end
    end
    if moved and state == 'WAIT' then
      h.enqueue(id, spec.options) -- perhaps it was in no line; a second ID there is dropped
    end
    if state == 'SCHEDULED' and (spec.at or spec.delay_ms) then
      local due = spec.at or now + spec.delay_ms
      if spec.most_ms then
        due = math.min(due, (tonumber(redis.call('HGET', key, 'created_at')) or tonumber(now)) + spec.most_ms)
      end
      redis.call('HSET', key, 'due_at', integer(due))
      h.schedule(id, integer(due))
    end
    if spec.expires_ms then
      local begins_at = state == 'SCHEDULED' and tonumber(redis.call('HGET', key, 'due_at') or '') or now
      redis.call('HSET', key, 'expires_at', integer(begins_at + spec.expires_ms))
    end
    return 'kept:' .. id
  end

  local function begin(id, spec, fields, forget)
    local key, once = base .. 'task:' .. id, spec.once
    if once then
      local other, state = h.once(once.key, once.release)
      if other and (other ~= id or once.release == 'never') then
        if once.conflict == 'keep' then
          return 'kept:' .. other
        elseif once.conflict == 'replace' and state ~= 'RUNNING' then
          return replace(other, state, spec, fields)
        end
        return 'once:' .. state .. ':' .. other
      end
      h.take_once(id, once.key, once.ttl_ms)
    end
    if forget then
      forget()
    end
    local answer, plain = put(id, key, spec, fields)
    if answer ~= 'ok' then
      h.give_up_once(id, spec.options)
    end
    return answer, plain
  end

  return function(id, json, fields, forget)
    local spec = cjson.decode(json)
    spec.options = spec.options or {}
    local answer, plain = attempt(begin, id, spec, fields, forget)
    if not answer then
      return plain
    end
    return answer, plain
  end
end
