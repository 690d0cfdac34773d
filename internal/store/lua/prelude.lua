-- Shared by every script: it is put in front of each. Redis' clock, JSON strings, and the one form of an event.

-- What an ACL refuses a script, in the words of the versions of Redis.
local function denied(message)
  return string.find(message, 'user executing the script', 1, true) or string.find(message, 'ACL failure in script', 1, true) or
    string.find(message, 'NOPERM', 1, true)
end

-- A call whose error is a value: {err = message}. Scripts have no rollback, so one bad key must not end a batch. A right that the caller
-- lacks does end it, by the same error raised: a count, or a pending stop, that it may not read must not pass for absent.
local function try(...)
  local reply = redis.pcall(...)
  if type(reply) == 'table' and reply.err and denied(reply.err) then
    return redis.call(...)
  end
  return reply
end

local function failed(reply)
  return type(reply) == 'table' and reply.err ~= nil
end

-- A key that cannot be used just now, as when its slot moves to another node; one that holds another type is broken for good.
local function unreachable(reply)
  return failed(reply) and not string.find(reply.err, 'WRONGTYPE', 1, true)
end

-- Redis' own time as a string of Unix ms: tostring() would make 1.7e+12 of the number.
local function clock()
  local t = redis.call('TIME')
  return t[1] .. string.format('%03d', math.floor(t[2] / 1000))
end

-- The last key of every call is `room`, which never exists. While the queue's slot moves to another node, the keys of one call may be
-- on both; Redis refuses a call that names a missing key then, also where all the others are here and a record that only the script
-- knows of is not. Deleting it is the removal with which a script must begin for a full Redis to accept its writes.
local function make_room()
  redis.call('DEL', KEYS[#KEYS])
end

local function integer(n)
  return string.format('%.0f', n)
end

-- A score as a number; nil if there is none. Some servers write 1.7957e+12, which the Lua of others does not read; nor is their -inf, which
-- is long past.
local function decimal(score)
  local mantissa, exponent = string.match(score or '', '^(.+)e%+(%d+)$')
  if mantissa then
    return tonumber(integer(mantissa * 10 ^ exponent))
  elseif score == '-inf' then
    return 0
  end
  return tonumber(score or '')
end

-- A score for the caller; '' if there is none.
local function digits(score)
  local at = decimal(score)
  return at and integer(math.max(at, 0)) or ''
end

local function quote(text)
  if string.find(text, '[%c"\\]') then
    return cjson.encode(text)
  end
  return '"' .. text .. '"'
end

-- Publishes an event of a transition that no run made: it has an epoch of its own, and is that epoch's first and only one.
local function announce(base, id, event, data, task, epoch, at)
  redis.call('PUBLISH', base .. 'events:' .. id, '{"event":"' .. event .. '","data":' .. data .. ',"id":' .. quote(id) ..
    ',"task":' .. quote(task or '') .. ',"epoch":' .. epoch .. ',"seq":1,"at":' .. at .. '}')
end

-- The score of what does not come by itself: the end of the year 9999. Not every server's `inf` is one to Lua.
local NEVER = '253402300799000'

-- The final states, and `kept`: the names of the final:* indexes.
local FINAL = { ENDED = true, ERROR = true, EXCEPTION = true, STOPPED = true }

local function index_of(state, keep)
  return keep and keep ~= '' and 'kept' or state
end

local function unindex(base, id)
  for state in pairs(FINAL) do
    try('ZREM', base .. 'final:' .. state, id)
  end
  try('ZREM', base .. 'final:kept', id)
end
