package redtask

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redtask/redtask/internal/store"
)

// WaitMany waits until many tasks are final, and returns their records in the order of the IDs, such as [Client.StartMany] returned them. For
// each it does what [Client.Wait] does, with one subscription for all. One that is removed has the record nil, and the error is
// [ErrNotFound] and names it; the others are waited for all the same. When ctx ends, those that are final have their records, and the
// error says how many are not. An ID that is given twice is waited for once, and both places have the same record; a bad one, and so the ""
// of a task that StartMany did not start, is refused before anything is waited for. Without IDs nothing is.
func (c *Client) WaitMany(ctx context.Context, ids []string) ([]*Record, error) {
	found := make(map[string]*Record, len(ids))
	var faults []error
	for record, err := range c.WaitEach(ctx, ids) {
		if err != nil {
			faults = append(faults, err)
			continue
		}
		found[record.ID] = record
	}
	records := make([]*Record, len(ids))
	for i, id := range ids {
		records[i] = found[id]
	}
	return records, errors.Join(faults...)
}

// WaitEach is [Client.WaitMany] that yields each record as soon as its task is final, in the order in which they end, once each. A task
// that is removed yields an error instead, and the loop goes on; it ends when nothing is left to wait for, or with an error of the whole:
// that of ctx, or of a Redis that refuses. The loop may take its time, and be left.
//
//	for record, err := range client.WaitEach(ctx, ids) {
//		if err != nil {
//			return err
//		}
//		fmt.Println(record.ID, record.State)
//	}
func (c *Client) WaitEach(ctx context.Context, ids []string) iter.Seq2[*Record, error] {
	return c.waitEach(ctx, ids, lookAtAllEvery)
}

// lookAtAllEvery is how often a safety net looks for ends that no event told of: a message of pub/sub may be lost without a trace. It reads
// states alone, however large the records are.
const lookAtAllEvery = 10 * time.Second

func (c *Client) waitEach(ctx context.Context, ids []string, every time.Duration) iter.Seq2[*Record, error] {
	return func(yield func(*Record, error) bool) {
		if err := c.checkMany(ids); err != nil {
			yield(nil, err)
			return
		}
		if len(ids) == 0 {
			return
		}
		w := newWaiter(c, ids)
		ctx, cancel := context.WithCancel(ctx)
		var listener sync.WaitGroup
		defer listener.Wait()
		defer cancel()
		subscription, err := w.subscribe(ctx)
		switch {
		case ctx.Err() != nil:
			yield(nil, w.unfinished(context.Cause(ctx)))
			return
		case err != nil:
			yield(nil, public(err))
			return
		}
		listener.Go(func() { w.listen(ctx, subscription) })
		w.serve(ctx, every, yield)
	}
}

func (c *Client) checkMany(ids []string) error {
	if c.fault != nil {
		return c.fault
	}
	var faults []error
	for i, id := range ids {
		if err := checkID(id); err != nil {
			faults = append(faults, fmt.Errorf("ID %d: %w", i, err))
		}
	}
	return errors.Join(faults...)
}

// waiter waits for many tasks. One goroutine reads the subscription and only notes whose end was told, so that it never stops reading; the
// caller's reads the records. It subscribes to the channel of each task: a pattern for the whole queue would bring, and make Redis
// match, the events of a million others.
type waiter struct {
	client  *Client
	ids     []string      // each once
	changed chan struct{} // capacity 1
	unseen  []string      // those to look at; owned by the caller's goroutine

	mu    sync.Mutex
	tasks map[string]*awaited // those that are still waited for
	noted []string            // those whose end was told since they were looked at
	all   bool                // ends of any of them may have been missed
}

type awaited struct {
	known bool // it has had a record: if that is gone, it was removed
	noted bool
}

func newWaiter(c *Client, ids []string) *waiter {
	w := &waiter{client: c, changed: make(chan struct{}, 1), tasks: make(map[string]*awaited, len(ids))}
	for _, id := range ids {
		if w.tasks[id] == nil {
			w.tasks[id] = &awaited{}
			w.ids = append(w.ids, id)
		}
	}
	return w
}

func (w *waiter) subscribe(ctx context.Context) (*store.Subscription, error) {
	return w.client.queue.SubscribeMany(ctx, w.ids, w.take)
}

// listen keeps a subscription until ctx ends. What came before it is found by looking at all.
func (w *waiter) listen(ctx context.Context, subscription *store.Subscription) {
	for subscription != nil {
		w.lookAtAll()
		w.hear(ctx, subscription)
		_ = subscription.Close() // what failed is why we are here
		subscription = subscribeAgain(ctx, func() (*store.Subscription, error) { return w.subscribe(ctx) })
	}
}

func (w *waiter) hear(ctx context.Context, subscription *store.Subscription) {
	for {
		message, err := subscription.Next(ctx)
		if err != nil {
			return
		}
		if message != nil {
			w.take(message)
		}
	}
}

func (w *waiter) take(message *redis.Message) {
	var event Event
	if json.Unmarshal([]byte(message.Payload), &event) != nil || event.Name == "" {
		return // not one of ours, since anyone may publish
	}
	id := w.client.queue.EventsID(message.Channel)
	w.meet(id)
	if event.final() {
		w.note(id)
	}
}

// meet says that a task has, or had, a record.
func (w *waiter) meet(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if task := w.tasks[id]; task != nil {
		task.known = true
	}
}

func (w *waiter) note(ids ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range ids {
		if task := w.tasks[id]; task != nil && !task.noted {
			task.noted = true
			w.noted = append(w.noted, id)
		}
	}
	w.poke()
}

func (w *waiter) lookAtAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = true
	w.poke()
}

func (w *waiter) poke() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// serve yields records until none is left, or nobody wants more.
func (w *waiter) serve(ctx context.Context, every time.Duration, yield func(*Record, error) bool) {
	slow := time.NewTicker(every)
	defer slow.Stop()
	for attempt := 0; !w.through(); {
		select {
		case <-w.changed:
		case <-slow.C:
			w.lookAtAll()
		case <-ctx.Done():
			yield(nil, w.unfinished(context.Cause(ctx)))
			return
		}
		wanted, err := w.look(ctx, yield)
		switch {
		case !wanted:
			return
		case err == nil:
			attempt = 0
		case store.Refused(err):
			yield(nil, public(err))
			return
		case pause(ctx, backoff(attempt)): // Redis is away, as the subscription will notice
			attempt++
		}
	}
}

// maxReads is how many records, or states, one round trip reads.
const maxReads = 128

// look reads the records of those that may be final. What an error cut short it does the next time. It reports whether more are wanted.
func (w *waiter) look(ctx context.Context, yield func(*Record, error) bool) (bool, error) {
	noted := w.begin()
	for len(noted) > 0 || len(w.unseen) > 0 {
		if len(noted) == 0 {
			ends, err := w.nextEnds(ctx)
			if err != nil {
				w.poke()
				return true, err
			}
			noted = ends
			continue
		}
		chunk := noted[:min(len(noted), maxReads)]
		wanted, err := w.read(ctx, chunk, yield)
		if err != nil {
			w.note(noted...)
		}
		if err != nil || !wanted {
			return wanted, err
		}
		noted = noted[len(chunk):]
	}
	return true, nil
}

// begin takes what is noted: what is told from here on is noted anew.
func (w *waiter) begin() (noted []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	noted, w.noted = w.noted, nil
	for _, id := range noted {
		if task := w.tasks[id]; task != nil {
			task.noted = false
		}
	}
	if w.all {
		w.unseen, w.all = w.leftLocked(), false
	}
	return noted
}

// nextEnds looks at some of those that are to be looked at, and returns which are final or gone.
func (w *waiter) nextEnds(ctx context.Context) ([]string, error) {
	chunk := w.unseen[:min(len(w.unseen), maxReads)]
	states, err := w.client.queue.States(ctx, chunk)
	if err != nil {
		return nil, err
	}
	w.unseen = w.unseen[len(chunk):]
	w.mu.Lock()
	defer w.mu.Unlock()
	var ends []string
	for i, id := range chunk {
		task := w.tasks[id]
		if task == nil {
			continue
		}
		if State(states[i]).Final() || states[i] == "" && task.known {
			ends = append(ends, id)
		}
		task.known = task.known || states[i] != ""
	}
	return ends, nil
}

// read yields those of some tasks that are final or gone; any other was started again already.
func (w *waiter) read(ctx context.Context, ids []string, yield func(*Record, error) bool) (bool, error) {
	hashes, err := w.client.queue.GetMany(ctx, ids)
	if err != nil {
		return true, err
	}
	for i, id := range ids {
		record, fault := w.recordOf(ctx, id, hashes[i])
		if fault != nil && !errors.Is(fault, ErrNotFound) && !errors.Is(fault, ErrWrongType) {
			return true, fault
		}
		if (fault != nil || record.State.Final()) && w.settle(id) && !yield(record, fault) {
			return false, nil
		}
	}
	return true, nil
}

// recordOf asks again for what was missing: whether it is gone or broken, only an answer of its own tells.
func (w *waiter) recordOf(ctx context.Context, id string, hash map[string]string) (*Record, error) {
	if hash == nil {
		return w.client.Get(ctx, id)
	}
	return newRecord(w.client.queue.Name(), id, hash), nil
}

// settle ends the wait for a task; false if it has ended before.
func (w *waiter) settle(id string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	task := w.tasks[id]
	delete(w.tasks, id)
	return task != nil
}

func (w *waiter) through() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.tasks) == 0
}

// left are those that are waited for, in the order in which they were given.
func (w *waiter) left() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.leftLocked()
}

func (w *waiter) leftLocked() []string {
	return slices.DeleteFunc(slices.Clone(w.ids), func(id string) bool { return w.tasks[id] == nil })
}

func (w *waiter) unfinished(cause error) error {
	const shown = 3
	left := w.left()
	names := ""
	for _, id := range left[:min(shown, len(left))] {
		names += strconv.Quote(id) + ", "
	}
	names = strings.TrimSuffix(names, ", ")
	if len(left) > shown {
		names += " and others"
	}
	return fmt.Errorf("redtask: wait for tasks: %d of %d are not final: %s: %w", len(left), len(w.ids), names, cause)
}
