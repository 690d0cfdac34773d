-- Shared by the scripts that tell runners when to wake: when the next task of `scheduled`, or the next of the timers beside it (see
-- holds.lua), is due; '' if none is, or that cannot be read.
local function earliest(scheduled)
  local least
  for _, key in ipairs({ scheduled, string.sub(scheduled, 1, -10) .. 'timers' }) do
    local found = try('ZRANGE', key, 0, 0, 'WITHSCORES')
    local at = not failed(found) and decimal(found[2])
    least = at and (not least or at < least) and at or least
  end
  return least and integer(least) or ''
end
