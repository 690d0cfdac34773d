package redtask

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redtask/redtask/internal/store"
)

// committer is the only writer of an engine's runs. It sends what tasks did, in order, and claims more in the same call; while a call is
// under way the next batch collects. So the load decides the size of a batch, and an idle runner waits for nothing.
type committer struct {
	engine *engine
	wake   chan struct{} // capacity 1

	healthy atomic.Bool // the last call reached Redis

	mu        sync.Mutex
	items     []item
	unsent    eventCount    // events in items
	room      chan struct{} // closed when some of them went out
	hungry    bool          // IDs may be in line
	more      bool          // the last claim was filled
	paused    bool          // the last claim found the queue paused
	claiming  int64         // slots that the batches under way may fill
	flights   []*flight     // the batches under way, in order
	calling   bool          // functions are called now
	inbox     bool          // an ID may be in the inbox, and no slot free for it
	reconcile bool          // what Redis says we own must be compared with what we run
	resting   time.Time     // until then neither of the last two is tried again
	calls     []func(context.Context)
	closed    bool  // nothing is written any more
	number    int64 // of the last batch
	before    int64 // of the last batch that was made before the present registration
	unsure    bool  // the lease was lost: until it is known which runs are still ours, none of them says anything
	closings  int   // of batches: a comparison that began before the last one does not tell
}

func newCommitter(e *engine) *committer {
	c := &committer{engine: e, wake: make(chan struct{}, 1), room: make(chan struct{}), hungry: true}
	c.healthy.Store(true)
	return c
}

func (c *committer) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *committer) put(i item) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		c.abandonItems([]item{i})
		return
	}
	c.queue(i)
	c.mu.Unlock()
}

// queue adds an item, and wakes whoever may send it now; mu is held.
func (c *committer) queue(i item) {
	c.items = append(c.items, i)
	if c.mayDepart() {
		c.poke()
	}
}

// emit queues an event. With the buffer full it waits for room while Redis is well and the task is not told to stop, else drops the
// event: its number is used, so watchers see the hole.
func (c *committer) emit(r *Run, event string) {
	for {
		c.mu.Lock()
		if c.closed {
			c.mu.Unlock()
			return
		}
		if c.unsent.fits(len(event), c.engine.options.EventBuffer) {
			c.unsent.add(len(event))
			c.queue(item{op: opEmit, run: r, text: event})
			c.mu.Unlock()
			return
		}
		room := c.room
		c.mu.Unlock()
		if !c.healthy.Load() {
			return
		}
		select {
		case <-room:
		case <-r.base.Done():
			return
		}
	}
}

// write stores fields of the run's record and waits until Redis has them.
func (c *committer) write(ctx context.Context, r *Run, fields ...string) error {
	settled := make(chan string, 1)
	c.put(item{op: opWrite, run: r, fields: fields, settled: settled})
	select {
	case code := <-settled:
		return writeError(r, code)
	case <-ctx.Done():
		outcome := "it may be written all the same"
		if c.withdraw(settled) {
			outcome = "it is not written"
		}
		return fmt.Errorf("redtask: write %s of task %q: redis did not answer; %s: %w", fields[0], r.id, outcome, context.Cause(ctx))
	}
}

// withdraw takes back what nobody waits for any more and is not under way: while Redis is away such writes would pile up. It reports
// whether it never was.
func (c *committer) withdraw(settled chan<- string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.IndexFunc(c.items, func(i item) bool { return i.settled == settled })
	if i < 0 {
		return false
	}
	sent := c.items[i].sent
	c.items = slices.Delete(c.items, i, i+1)
	return !sent
}

func (c *committer) writeLater(r *Run, fields ...string) {
	c.put(item{op: opWrite, run: r, fields: fields})
}

// progress stores a report. One that is queued already is replaced: while Redis is away they do not pile up.
func (c *committer) progress(r *Run, report string) {
	c.mu.Lock()
	queued := r.report != ""
	r.report = report
	c.mu.Unlock()
	if !queued {
		c.put(item{op: opProgress, run: r})
	}
}

func writeError(r *Run, code string) error {
	switch code {
	case "ok":
		return nil
	case "lost":
		return fmt.Errorf("redtask: task %q, epoch %d: %w", r.id, r.epoch, ErrLeaseLost)
	default:
		return fmt.Errorf("redtask: task %q: %w", r.id, store.Broken(code))
	}
}

// leave ends the run's claim, and frees its slot so that the same call can fill it.
func (c *committer) leave(r *Run, leave *store.Leave) {
	if !r.local {
		c.engine.free.Add(1)
	}
	c.put(item{op: opLeave, run: r, leave: leave})
}

// swap makes next the task's run in the place of r.
func (c *committer) swap(r, next *Run, stopped *store.Leave) string {
	settled := make(chan string, 1)
	c.put(item{op: opSwap, run: r, next: next, text: string(next.data), leave: stopped, settled: settled})
	return <-settled
}

func (c *committer) keepOld(r *Run, tried string) {
	c.put(item{op: opKeep, run: r, text: tried})
}

func (c *committer) count(counter string) {
	c.do(func(ctx context.Context) {
		if err := c.engine.queue.Count(ctx, counter, 1); err != nil {
			c.engine.logger.Warn("could not count", "error", err)
		}
	})
}

// do runs a function between two batches: nothing else changes what this runner owns meanwhile.
func (c *committer) do(f func(context.Context)) {
	c.mu.Lock()
	c.calls = append(c.calls, f)
	c.mu.Unlock()
	c.poke()
}

// lookAgain says that tasks may be in line.
func (c *committer) lookAgain() {
	c.mu.Lock()
	c.hungry = true
	c.mu.Unlock()
	c.poke()
}

// lookIfPaused looks again at a queue that was paused: who resumed it may have said so while nobody listened.
func (c *committer) lookIfPaused() {
	c.mu.Lock()
	c.hungry = c.hungry || c.paused
	c.mu.Unlock()
	c.poke()
}

// woken says that an ID may be in this runner's inbox.
func (c *committer) woken() {
	c.mu.Lock()
	c.hungry, c.inbox = true, true
	c.mu.Unlock()
	c.poke()
}

// returnInbox puts an ID that cannot be claimed here and now back to where others find it: slots may be taken for months.
func (c *committer) returnInbox(ctx context.Context) error {
	if c.engine.mayClaim() && c.engine.free.Load() > 0 {
		return nil // the next batch claims it
	}
	return c.engine.queue.ReturnInbox(ctx, c.engine.runnerID)
}

// closeBatches returns the number of the last batch that was made: with the next registration Redis takes none of these any more. One
// that is under way may have been applied before the lease was lost, and events that it has must not come twice. None is made from now
// on until it is known which runs are still this runner's: the next run of a task may have begun elsewhere, and the events of this one
// would come between. That is asked when the registration worked, too late for a batch made while its answer is on the way.
func (c *committer) closeBatches() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.before, c.unsure = c.number, true
	c.closings++
	return c.number
}

func (c *committer) mustReconcile() {
	c.mu.Lock()
	c.reconcile = true
	c.mu.Unlock()
	c.poke()
}

// attempt does what a flag asks for, and lowers the flag first: it may be raised again meanwhile. What fails is tried again after a rest.
func (c *committer) attempt(ctx context.Context, what string, flag *bool, do func(context.Context) error) {
	c.mu.Lock()
	*flag = false
	c.mu.Unlock()
	err := do(ctx)
	if err == nil {
		return
	}
	rest := backoff(faultBackoff)
	c.mu.Lock()
	*flag, c.resting = true, time.Now().Add(rest)
	c.mu.Unlock()
	if ctx.Err() == nil {
		c.engine.logger.Warn("could not "+what+"; it is tried again", "error", err)
		time.AfterFunc(rest, c.poke)
	}
}

// tryAgain waits before a failed call is made again; false when ctx has ended. Emits that wait for room are told: they drop.
func (c *committer) tryAgain(ctx context.Context, attempt int, err error) bool {
	c.healthy.Store(false)
	c.wakeWaiters()
	if attempt == 0 || store.Answered(err) {
		c.engine.logger.Warn("redis does not take what tasks did; it is kept and sent again", "error", err)
	}
	return pause(ctx, backoff(attempt))
}

// wakeWaiters lets emits that wait for room see that Redis is away.
func (c *committer) wakeWaiters() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.room)
	c.room = make(chan struct{})
}

// backoff grows from 50 ms to 2 s, with full jitter so that runners do not come back in step.
func backoff(attempt int) time.Duration {
	longest := min(2*time.Second, 50*time.Millisecond<<min(attempt, 10))
	return longest/4 + rand.N(longest*3/4)
}

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// abandon tells everyone who waits that nothing will be written any more.
func (c *committer) abandon() {
	c.mu.Lock()
	items := c.items
	c.items, c.closed = nil, true
	c.mu.Unlock()
	c.abandonItems(items)
}

func (c *committer) abandonItems(items []item) {
	for i := range items {
		if items[i].settled != nil {
			items[i].settled <- "lost"
		}
	}
}

// flush waits until Redis has the ends of all runs. It looks between two batches: then what a claim brought is among the runs, and what
// a lost answer may have brought is still to be compared.
func (c *committer) flush(ctx context.Context) error {
	for {
		left := make(chan bool, 1)
		c.do(func(context.Context) {
			c.mu.Lock()
			defer c.mu.Unlock()
			left <- len(c.items) > 0 || c.engine.owned() > 0 || c.reconcile && c.engine.lease.isHeld()
		})
		select {
		case more := <-left:
			if !more {
				return nil
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if !pause(ctx, 5*time.Millisecond) {
			return context.Cause(ctx)
		}
	}
}
