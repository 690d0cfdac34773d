-- Stops a task: one that waits at once, one that runs by an intent that its runner cannot miss. Called by Queue.Stop.
--
-- KEYS[1] scheduled  [2] epoch  [3] room
-- ARGV[1] base, `P:{Q}:`  [2] ID  [3] `STATE:EPOCH:NONCE` of the task that is meant, or nothing
--
-- Returns {outcome, state before}: `stopped` (it is STOPPED now, or was already), `told` (its runner will), `final`, `missing`, `moved` (it is
-- not as it was meant: nothing was done), `broken` (message).
return stop_task(ARGV[1], ARGV[2], ARGV[3], KEYS[1], KEYS[2])
