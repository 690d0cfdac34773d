-- Removes final tasks with their records, but not one that was started again meanwhile, also if it has ended anew, nor one that is to be
-- kept.
-- Called by Queue.Sweep.
--
-- KEYS[1] final:STATE  [2] final:kept  [3] room
-- ARGV[1] base, `P:{Q}:`  [2] STATE  then id, end time as it was found, ...
--
-- Returns the number of records removed.
local index, kept = KEYS[1], KEYS[2]
local base, state = ARGV[1], ARGV[2]

make_room()
local removed = 0

-- Returns an error if the record cannot be used just now.
local function sweep(id)
  local key = base .. 'task:' .. id
  local found = try('HMGET', key, 'state', 'keep', 'ended_at', 'log')
  if unreachable(found) then
    return found
  end
  if not failed(found) and found[1] == state then
    if found[2] and found[2] ~= '' then
      redis.call('ZADD', kept, found[3] or 0, id)
    else
      if found[4] then
        redis.call('DEL', base .. 'log:' .. id)
      end
      redis.call('DEL', key)
      removed = removed + 1
    end
  end
  redis.call('ZREM', index, id)
end

for i = 3, #ARGV, 2 do
  local score = decimal(redis.call('ZSCORE', index, ARGV[i]))
  if score and score == decimal(ARGV[i + 1]) then -- as numbers: servers write them in several ways
    local fault = sweep(ARGV[i])
    if fault then
      return fault
    end
  end
end
return removed
