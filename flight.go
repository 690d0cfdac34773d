package redtask

import (
	"context"
	"runtime"
	"sync"
	"time"

	"github.com/redtask/redtask/internal/store"
)

// maxFlights is how many batches are under way at most: while Redis works on one, this process reads the answer to the other.
const maxFlights = 2

// flight is a batch that is under way.
type flight struct {
	batch  *store.Batch
	items  []item
	before *flight       // was under way when this one took off; nil if none was
	landed chan struct{} // closed when its answer is settled
}

// Serve runs until ctx ends; what is queued then is lost, so the engine drains it before.
func (c *committer) Serve(ctx context.Context) {
	defer c.abandon()
	var pilots sync.WaitGroup
	for range maxFlights {
		pilots.Go(func() { c.fly(ctx) })
	}
	pilots.Wait()
}

// fly sends one batch after the other. Answers are settled in the order of the batches.
func (c *committer) fly(ctx context.Context) {
	for {
		f, again := c.turn(ctx)
		if f == nil {
			if again && ctx.Err() == nil {
				continue
			}
			select {
			case <-c.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		result := c.send(ctx, f)
		c.awaitBefore(f)
		if result == nil {
			c.abandonItems(f.items)
		} else {
			c.settle(ctx, f, result)
		}
		c.land(f)
		if result == nil {
			return
		}
		runtime.Gosched() // tasks that have just begun may be short: their ends go with the next batch
	}
}

// mayDepart: one batch goes at once, so that an idle runner waits for nothing. A second one goes beside it when it has grown as large:
// smaller ones would cost Redis more than they gain. mu is held.
func (c *committer) mayDepart() bool {
	switch {
	case c.unsure || c.calling:
		return false
	case len(c.flights) == 0:
		return true
	}
	quietWanted := len(c.calls) > 0 || c.inbox || c.reconcile
	return len(c.flights) < maxFlights && !quietWanted && len(c.items) >= max(1, len(c.flights[0].items))
}

// takeOff numbers a batch; mu is held.
func (c *committer) takeOff(batch *store.Batch, items []item) *flight {
	c.number++
	f := &flight{batch: batch, items: items, landed: make(chan struct{})}
	if len(c.flights) > 0 {
		f.before = c.flights[len(c.flights)-1]
		batch.After = f.before.batch.Number
	}
	c.flights = append(c.flights, f)
	c.claiming += int64(batch.Claim)
	if len(c.items) > 0 && c.mayDepart() { // this batch is full
		c.poke()
	}
	return f
}

// land ends a flight, which is the first of those under way.
func (c *committer) land(f *flight) {
	c.mu.Lock()
	c.flights = append(c.flights[:0], c.flights[1:]...)
	c.claiming -= int64(f.batch.Claim)
	c.mu.Unlock()
	close(f.landed)
}

// send sends a batch until Redis has answered. Sent again under its number it is applied once, so a lost reply neither claims twice
// nor publishes twice; what a lost reply had claimed is found by comparing. Redis refuses a batch that overtook the one before: events
// would come in the wrong order. That one's fate is awaited before this one is sent again, for then nothing can come between.
func (c *committer) send(ctx context.Context, f *flight) *store.Result {
	for attempt := 0; ; attempt++ {
		result, err := c.engine.queue.Commit(ctx, c.engine.runnerID, f.batch)
		if err == nil && result.Outcome != store.Early {
			if attempt > 0 {
				c.engine.logger.Info("redis answers again", "failed_calls", attempt)
			}
			c.healthy.Store(true)
			return result
		}
		c.awaitBefore(f)
		if err == nil {
			attempt--
			continue
		}
		if !c.tryAgain(ctx, attempt, err) {
			return nil
		}
	}
}

// awaitBefore waits until a batch is the only one under way.
func (c *committer) awaitBefore(f *flight) {
	if f.before != nil {
		<-f.before.landed
		f.before, f.batch.After = nil, 0
	}
}

// turn does what must happen between two batches, if none is under way, and takes the next batch. They alternate: a function may ask to be
// called again until some item is sent. Without a batch it reports whether there is more to call: what another goroutine was woken for
// meanwhile, and could not do.
func (c *committer) turn(ctx context.Context) (f *flight, again bool) {
	calls, inbox, reconcile := c.beginCalls()
	for _, do := range calls {
		do(ctx)
	}
	if inbox {
		c.attempt(ctx, "return the IDs in this runner's inbox to the line", &c.inbox, c.returnInbox)
	}
	if reconcile {
		c.attempt(ctx, "compare with redis which tasks this runner has", &c.reconcile, c.compare)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(calls) > 0 || inbox || reconcile {
		c.calling = false
	}
	f = c.collect()
	return f, f == nil && c.mustCall()
}

func (c *committer) beginCalls() (calls []func(context.Context), inbox, reconcile bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.mustCall() {
		return nil, false, false
	}
	c.calling = true
	calls, c.calls = c.calls, nil
	if c.mayAsk() {
		inbox, reconcile = c.inbox, c.reconcile
	}
	return calls, inbox, reconcile
}

// mustCall reports whether something is to be called that may be called now; mu is held.
func (c *committer) mustCall() bool {
	return len(c.flights) == 0 && !c.calling && (len(c.calls) > 0 || (c.inbox || c.reconcile) && c.mayAsk())
}

// mayAsk reports whether what the inbox and reconcile stand for may be tried; mu is held.
func (c *committer) mayAsk() bool { return !time.Now().Before(c.resting) && c.engine.lease.isHeld() }
