-- Draws an epoch for a run that is about to take over from another in a reload. Called by Queue.ReserveEpoch.
--
-- KEYS[1] epoch  [2] room
--
-- Returns the epoch.
make_room()
return integer(redis.call('INCR', KEYS[1]))
