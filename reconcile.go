package redtask

import (
	"context"
	"errors"

	"github.com/redtask/redtask/internal/store"
)

// compare gives back what Redis says we own and we do not run, and cancels what we run and Redis says is not ours.
func (c *committer) compare(ctx context.Context) error {
	c.mu.Lock()
	closings := c.closings
	c.mu.Unlock()
	owned, err := c.engine.queue.Owned(ctx, c.engine.runnerID)
	if err != nil {
		return err
	}
	for _, r := range c.engine.snapshot() {
		if !owned[r.member] {
			r.Logger().Warn("redis says that this task is no longer this runner's: its run is cancelled")
			r.lose()
		}
		delete(owned, r.member)
	}
	for member := range owned {
		if err := c.giveBackLost(ctx, member); err != nil {
			return err
		}
	}
	c.mu.Lock()
	c.unsure = c.unsure && c.closings != closings
	c.mu.Unlock()
	call(c.engine.options.hooks.reconciled, c.engine.queue.Name())
	return nil
}

// giveBackLost returns a claim whose answer was lost.
func (c *committer) giveBackLost(ctx context.Context, member string) error {
	epoch, id, ok := store.ParseMember(member)
	if !ok {
		return nil
	}
	hash, err := c.engine.queue.Get(ctx, id)
	if err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrWrongType) {
		return err
	}
	r := c.engine.newRun(&store.Claim{
		ID: id, Task: hash["task"], Epoch: epoch, Attempt: int(parseInt(hash["attempt"])), Keep: hash["keep"] != "",
		Extra: &store.Extra{Options: hash["options"]},
	})
	r.local = hash["local"] != ""
	c.giveBack(r, "claim answer lost")
	return nil
}

// giveBack returns a claim that did not run; its attempt does not count.
func (c *committer) giveBack(r *Run, reason string) {
	r.mu.Lock()
	r.over = true // it is told nothing any more
	r.mu.Unlock()
	close(r.returned) // who told it before waits for that
	r.cancel(ErrShutdown)
	c.engine.add(r)
	if !r.local {
		c.engine.free.Add(-1) // leave frees a slot
	}
	c.leave(r, r.back(reason, r.uncountedAttempt()))
}
