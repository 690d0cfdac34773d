package redtask

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redtask/redtask/internal/store"
)

const (
	maxBatchEmits = 256
	maxBatchBytes = 1 << 20
)

// committer is the only writer of an engine's runs. One goroutine sends what tasks did, in order, and claims more in the same call;
// while a call is under way the next batch collects. So the load decides the size of a batch, and an idle runner waits for nothing.
type committer struct {
	engine *engine
	wake   chan struct{} // capacity 1

	healthy atomic.Bool // the last call reached Redis

	mu        sync.Mutex
	items     []item
	emits     int           // events in items
	room      chan struct{} // closed when emits fell below the bound
	hungry    bool          // IDs may be in line
	reconcile bool          // what Redis says we own must be compared with what we run
	calls     []func(context.Context)
	closed    bool // nothing is written any more

	number int64 // owned by Serve
}

type op uint8

const (
	opEmit op = iota
	opWrite
	opLeave
	opSwap
	opKeep
)

type item struct {
	op      op
	run     *Run
	text    string // event; data tried
	fields  []string
	leave   *store.Leave
	next    *Run
	event   string
	settled chan<- string // gets the code; nil if nobody waits
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
	closed := c.closed
	if !closed {
		c.items = append(c.items, i)
	}
	c.mu.Unlock()
	if closed {
		c.abandonItems([]item{i})
	}
	c.poke()
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
		if c.emits < c.engine.options.EventBuffer {
			c.emits++
			c.items = append(c.items, item{op: opEmit, run: r, text: event})
			c.mu.Unlock()
			c.poke()
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
		return fmt.Errorf("redtask: write %s of task %q: redis did not answer: %w", fields[0], r.id, context.Cause(ctx))
	}
}

func (c *committer) writeLater(r *Run, fields ...string) {
	c.put(item{op: opWrite, run: r, fields: fields})
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
func (c *committer) swap(r, next *Run, event string) string {
	settled := make(chan string, 1)
	c.put(item{op: opSwap, run: r, next: next, text: string(next.data), event: event, settled: settled})
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

func (c *committer) mustReconcile() {
	c.mu.Lock()
	c.reconcile = true
	c.mu.Unlock()
	c.poke()
}

// Serve runs until ctx ends; what is queued then is lost, so the engine drains it before.
func (c *committer) Serve(ctx context.Context) {
	defer c.abandon()
	for {
		c.callAll(ctx)
		batch, items := c.collect()
		if batch == nil {
			select {
			case <-c.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		result := c.send(ctx, batch)
		if result == nil {
			c.abandonItems(items)
			return
		}
		c.settle(items, batch, result)
	}
}

func (c *committer) callAll(ctx context.Context) {
	c.mu.Lock()
	calls, reconcile := c.calls, c.reconcile && c.engine.lease.isHeld()
	c.calls = nil
	c.mu.Unlock()
	for _, f := range calls {
		f(ctx)
	}
	if reconcile {
		c.compare(ctx)
	}
}

// collect takes a batch from the front of what is queued; nil if there is nothing to say and nothing to claim.
func (c *committer) collect() (*store.Batch, []item) {
	c.mu.Lock()
	defer c.mu.Unlock()
	batch := &store.Batch{Number: c.number + 1}
	n, emits, size := 0, 0, 0
	for n < len(c.items) && batch.Fenced() < store.MaxBatch && emits < maxBatchEmits && size < maxBatchBytes {
		i := &c.items[n]
		size += i.size()
		i.addTo(batch)
		if i.op == opEmit {
			emits++
		}
		n++
	}
	items := c.items[:n:n]
	if n == len(c.items) {
		c.items = nil
	} else {
		c.items = c.items[n:]
	}
	c.makeRoom(emits)
	if c.hungry && !c.reconcile && c.engine.mayClaim() {
		batch.Claim = int(max(0, min(c.engine.free.Load(), store.MaxBatch)))
	}
	if batch.Empty() && batch.Claim == 0 {
		return nil, nil
	}
	c.number++
	return batch, items
}

func (c *committer) makeRoom(emits int) {
	if emits == 0 {
		return
	}
	c.emits -= emits
	close(c.room)
	c.room = make(chan struct{})
}

func (i *item) size() int {
	n := len(i.text) + len(i.event)
	for _, field := range i.fields {
		n += len(field)
	}
	if i.leave != nil {
		for _, field := range i.leave.Fields {
			n += len(field)
		}
	}
	return n
}

func (i *item) addTo(b *store.Batch) {
	r := i.run
	switch i.op {
	case opEmit:
		b.Emit(r.id, i.text)
	case opWrite:
		b.Write(r.id, r.member, i.fields...)
	case opLeave:
		b.Leave(r.id, r.member, i.leave)
	case opSwap:
		b.Swap(r.id, r.member, i.next.epoch, i.text, i.event, r.keep)
	case opKeep:
		b.KeepOld(r.id, r.member, i.text, string(r.data))
	}
}

// send sends a batch until Redis has answered. Sent again under its number it is applied once, so a lost reply neither claims twice
// nor publishes twice; what a lost reply had claimed is found by comparing.
func (c *committer) send(ctx context.Context, batch *store.Batch) *store.Result {
	for attempt := 0; ; attempt++ {
		result, err := c.engine.queue.Commit(ctx, c.engine.runnerID, batch)
		if err == nil {
			if attempt > 0 {
				c.engine.logger.Info("redis answers again", "failed_calls", attempt)
			}
			c.healthy.Store(true)
			return result
		}
		if !c.tryAgain(ctx, attempt, err) {
			return nil
		}
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

func (c *committer) settle(items []item, batch *store.Batch, result *store.Result) {
	c.engine.setClock(result.Now)
	switch result.Outcome {
	case store.Unregistered:
		for i := range items {
			c.settleItem(&items[i], "lost")
		}
		c.engine.lease.lost()
	case store.Replayed:
		c.settleReplayed(items)
	case store.Applied:
		code := 0
		for i := range items {
			if items[i].op != opEmit {
				c.settleItem(&items[i], result.Codes[code])
				code++
			}
		}
		c.takeClaims(batch, result)
	}
}

// settleReplayed: the batch is applied, but its codes and claims were in the lost reply. Claims are found by comparing; a write, which
// someone may wait for, is simply written again.
func (c *committer) settleReplayed(items []item) {
	c.mustReconcile()
	var again []item
	for i := range items {
		switch items[i].op {
		case opWrite, opKeep:
			again = append(again, items[i])
		default:
			c.settleItem(&items[i], "ok")
		}
	}
	c.mu.Lock()
	c.items = append(again, c.items...)
	c.mu.Unlock()
}

func (c *committer) settleItem(i *item, code string) {
	switch i.op {
	case opEmit:
		return
	case opLeave:
		c.engine.remove(i.run)
		c.logLeave(i, code)
	case opSwap:
		c.engine.remove(i.run)
		if code == "ok" {
			c.engine.add(i.next)
		}
	case opKeep, opWrite:
		if code != "ok" && i.settled == nil {
			i.run.Logger().Warn("could not write the task's record", "reason", strings.TrimPrefix(code, "broken:"))
		}
		if code == "lost" {
			i.run.tell(ErrLeaseLost)
		}
	}
	if i.settled != nil {
		i.settled <- code
	}
}

func (c *committer) logLeave(i *item, code string) {
	switch {
	case code == "lost":
		i.run.Logger().Warn("the end of this run was not written: the task is no longer this runner's", "state", i.leave.State)
	case strings.HasPrefix(code, "broken:"):
		i.run.Logger().Error("could not write the task's record: look at its key with TYPE", "state", i.leave.State, "reason", code[len("broken:"):])
	case i.leave.State == "SCHEDULED":
		c.engine.promoter.dueAt(c.engine.now() + i.leave.Delay)
	}
}

func (c *committer) takeClaims(batch *store.Batch, result *store.Result) {
	for _, fault := range result.Faults {
		c.engine.logger.Error("a key of the queue cannot be used: find it with TYPE, and delete or rename it", "reason", fault)
	}
	for _, drop := range result.Drops {
		c.engine.logger.Warn("dropped an ID from the line", "id", drop.ID, "reason", drop.Reason)
	}
	for i := range result.Claims {
		if !c.engine.launch(&result.Claims[i]) {
			c.giveBack(c.engine.newRun(&result.Claims[i]), "shutdown")
		}
	}
	if batch.Claim > 0 && !result.More {
		c.mu.Lock()
		c.hungry = false
		c.mu.Unlock()
		c.engine.fetcher.await()
		call(c.engine.options.hooks.idle, c.engine.queue.Name())
	}
}

// compare gives back what Redis says we own and we do not run, and cancels what we run and Redis says is not ours.
func (c *committer) compare(ctx context.Context) {
	owned, err := c.engine.queue.Owned(ctx, c.engine.runnerID)
	if err != nil {
		c.engine.logger.Warn("could not compare the tasks that run here with redis; it will be tried again", "error", err)
		time.AfterFunc(backoff(4), c.poke)
		return
	}
	c.mu.Lock()
	c.reconcile = false
	c.mu.Unlock()
	for _, r := range c.engine.snapshot() {
		if !owned[r.member] {
			r.Logger().Warn("redis says that this task is no longer this runner's: its run is cancelled")
			r.tell(ErrLeaseLost)
		}
		delete(owned, r.member)
	}
	for member := range owned {
		c.giveBackLost(ctx, member)
	}
	call(c.engine.options.hooks.reconciled, c.engine.queue.Name())
}

// giveBackLost returns a claim whose answer was lost.
func (c *committer) giveBackLost(ctx context.Context, member string) {
	epoch, id, ok := store.ParseMember(member)
	if !ok {
		return
	}
	hash, err := c.engine.queue.Get(ctx, id)
	if err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrWrongType) {
		c.mustReconcile()
		return
	}
	r := c.engine.newRun(&store.Claim{
		ID: id, Task: hash["task"], Epoch: epoch, Attempt: int(parseInt(hash["attempt"])), Keep: hash["keep"] != "",
	})
	r.local = hash["local"] != ""
	c.giveBack(r, "claim answer lost")
}

// giveBack returns a claim that did not run; its attempt does not count.
func (c *committer) giveBack(r *Run, reason string) {
	r.over = true // nobody else knows of it yet
	r.cancel(ErrShutdown)
	c.engine.add(r)
	if !r.local {
		c.engine.free.Add(-1) // leave frees a slot
	}
	c.leave(r, r.back(reason, r.uncountedAttempt()))
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

// flush waits until all that is queued has been answered for.
func (c *committer) flush(ctx context.Context) error {
	for {
		left := make(chan int, 1)
		c.do(func(context.Context) {
			c.mu.Lock()
			defer c.mu.Unlock()
			left <- len(c.items)
		})
		select {
		case n := <-left:
			if n == 0 {
				return nil
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
