-- Puts a batch of new tasks in line. Called by Queue.Start; with the parts holds and begins in front if one of them is more than plain.
--
-- KEYS[1] wait  [2] room
-- ARGV[1] base, `P:{Q}:`
-- then for each task: ID, nonce ('' for an ID that the client drew: that ID is its own nonce), n, and n strings: field, value, ...
-- With -n, the first of n strings is what else the start says, as JSON: see begins.lua.
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
    i = i + 3 + math.abs(ARGV[i + 2])
  end
  return #keys > 0 and try('EXISTS', unpack(keys)) == 0
end

local all_fresh = fresh()

-- Whether the ID of a start is taken: then the answer. If it is that of a final task, what removes its record.
local function taken(id, nonce, key)
  local old = try('HMGET', key, 'nonce', 'state', 'task', 'log')
  if failed(old) then
    return fault(old)
  end
  if nonce == '' then -- a hash is there only if this is a replay of a start whose reply was lost: the task may have gone on since
    return old[3] and 'ok' or nil
  end
  if old[1] == nonce then
    return 'ok'
  elseif old[2] and FINAL[old[2]] then
    return nil, function()
      unindex(base, id)
      if old[4] then
        redis.call('DEL', base .. 'log:' .. id)
      end
      redis.call('DEL', key)
    end
  elseif old[2] or old[3] then
    return 'exists:' .. (old[2] or 'WAIT')
  end
end

local special
local i = 2
while i <= #ARGV do
  local id, nonce, n = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
  local key, answer, forget = tasks .. id, nil, nil
  if nonce ~= '' or not all_fresh then
    answer, forget = taken(id, nonce, key)
  end
  if answer then -- nothing to do
  elseif n < 0 then
    special = special or begins(base, now, fault)
    answer, line[#line + 1] = special(id, ARGV[i + 3], { unpack(ARGV, i + 4, i + 2 - n) }, forget)
  else
    if forget then
      forget()
    end
    answer = write(id, key, i + 3, n)
  end
  if refusal then
    return refusal
  end
  results[#results + 1] = answer
  i = i + 3 + math.abs(n)
end
if #line > 0 then
  redis.call('LPUSH', wait, unpack(line))
end
return results
