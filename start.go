package redtask

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redtask/redtask/internal/store"
)

// StartOptions are what one start says beyond name and data. The zero value works.
type StartOptions struct {
	// ID is the task's own ID: at most [MaxID] bytes, without control characters. An ID that is waiting or running is refused with a
	// [*ConflictError] that is [ErrExists]; a final one is started anew, its old record gone. Default: a new random ID.
	ID string
	// Keep keeps the record of the final task from cleanup. Default false.
	Keep bool
}

// StartRequest is one task for [Client.StartMany].
type StartRequest struct {
	Task string // its name
	Data any    // encoded as JSON, at most [ClientOptions.MaxData] bytes
	StartOptions
}

// Start puts a task in line and returns its ID. data is encoded as JSON, at most [ClientOptions.MaxData] bytes; a json.RawMessage goes as it is. Once
// Start returned nil the task is kept until it reaches a final state. Calls from many goroutines share round trips.
func (c *Client) Start(ctx context.Context, task string, data any) (string, error) {
	return c.StartWith(ctx, task, data, StartOptions{})
}

// StartWith is [Client.Start] with options.
func (c *Client) StartWith(ctx context.Context, task string, data any, options StartOptions) (string, error) {
	fresh, err := c.newTask(&StartRequest{Task: task, Data: data, StartOptions: options})
	if err != nil {
		return "", err
	}
	if ctx.Err() != nil {
		return "", fmt.Errorf("redtask: start task %s: not started: %w", task, context.Cause(ctx))
	}
	if err := c.announce(ctx); err != nil {
		return "", public(fmt.Errorf("start task %s: not started: %w", task, err))
	}
	if err := c.starter.start(ctx, fresh); err != nil {
		return "", public(fmt.Errorf("start task %s, ID %q: %w", task, fresh.ID, err))
	}
	return fresh.ID, nil
}

// StartMany puts many tasks in line, in bulk, and returns their IDs in the order of the requests. A bad request is refused before any is
// started. After another error the IDs tell which were started: a task that was not, or of which that is not known, has "".
func (c *Client) StartMany(ctx context.Context, requests []StartRequest) ([]string, error) {
	tasks := make([]store.NewTask, len(requests))
	var faults []error
	for i := range requests {
		task, err := c.newTask(&requests[i])
		if err != nil {
			faults = append(faults, fmt.Errorf("request %d: %w", i, err))
			continue
		}
		tasks[i] = *task
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	if err := c.announce(ctx); err != nil {
		return nil, public(fmt.Errorf("start %d tasks: none is started: %w", len(tasks), err))
	}
	ids := make([]string, len(tasks))
	for from := 0; from < len(tasks); {
		to := chunk(tasks, from)
		results, err := c.queue.Start(ctx, tasks[from:to])
		if err != nil {
			fault := public(fmt.Errorf("start requests %d to %d: it is not known whether these tasks are started; none after them is: %w", from, to-1, err))
			return ids, errors.Join(append(faults, fault)...)
		}
		for i, fault := range results {
			if fault != nil {
				faults = append(faults, public(fault))
				continue
			}
			ids[from+i] = tasks[from+i].ID
		}
		from = to
	}
	return ids, errors.Join(faults...)
}

const (
	maxStartBatch = 128
	maxStartBytes = 1 << 20
)

// chunk returns where a batch that begins at from ends: small enough to hold Redis for about a millisecond.
func chunk(tasks []store.NewTask, from int) int {
	size, to := 0, from
	for to < len(tasks) && to-from < maxStartBatch && (to == from || size+len(tasks[to].Data) <= maxStartBytes) {
		size += len(tasks[to].Data)
		to++
	}
	return to
}

func (c *Client) newTask(request *StartRequest) (*store.NewTask, error) {
	if c.fault != nil {
		return nil, c.fault
	}
	if err := checkName(request.Task); err != nil {
		return nil, err
	}
	if strings.HasPrefix(request.Task, reservedApp) {
		return nil, fmt.Errorf("%w: task name %q: tasks of redtask/ belong to the runners, which start them themselves", ErrInvalid, request.Task)
	}
	data, err := encode("data for task "+request.Task, request.Data, c.shared.maxData)
	if err != nil {
		return nil, err
	}
	task := &store.NewTask{ID: request.ID, Task: request.Task, Data: string(data), Keep: request.Keep}
	if task.ID == "" {
		task.ID = newID()
		return task, nil
	}
	task.Nonce = newID()
	return task, checkID(task.ID)
}

// newID draws 75 random bits in 15 letters and digits: short enough for Redis' compact encodings, and no two in a lifetime.
func newID() string {
	const alphabet = "0123456789abcdefghjkmnpqrstvwxyz"
	var id [15]byte
	high, low := rand.Uint64(), rand.Uint64()
	for i := range id {
		if i == 8 {
			high = low
		}
		id[i] = alphabet[high&31]
		high >>= 5
	}
	return string(id[:])
}

// starter is group commit for Start: while one call is under way the next batch collects.
type starter struct {
	client *Client
	wake   chan struct{} // capacity 1

	mu      sync.Mutex
	waiting []*starting
	sending bool // a goroutine sends, or waits for more
	idle    bool // it waits
}

type starting struct {
	ctx  context.Context
	task *store.NewTask
	done chan error // capacity 1
}

// start queues a task, and sees that somebody sends it.
func (s *starter) start(ctx context.Context, task *store.NewTask) error {
	mine := &starting{ctx: ctx, task: task, done: make(chan error, 1)}
	s.mu.Lock()
	s.waiting = append(s.waiting, mine)
	absent, idle := !s.sending, s.idle
	s.sending, s.idle = true, false
	s.mu.Unlock()
	switch {
	case absent:
		go s.send()
	case idle:
		s.wake <- struct{}{}
	}
	select {
	case err := <-mine.done:
		return err
	case <-ctx.Done():
		if s.withdraw(mine) {
			return fmt.Errorf("not started: redis did not answer: %w", context.Cause(ctx))
		}
		return fmt.Errorf("redis did not answer; it may be started all the same: %w", context.Cause(ctx))
	}
}

// withdraw takes back a start that is not under way: while Redis hangs they would pile up, and all be started long after their callers left.
func (s *starter) withdraw(mine *starting) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.waiting, mine)
	if i >= 0 {
		s.waiting = slices.Delete(s.waiting, i, i+1)
	}
	return i >= 0
}

// linger is how long a goroutine that sends stays for the next start: growing the stack of a new one takes longer than encoding a task.
const linger = 10 * time.Millisecond

// send sends one batch after the other until nobody has come for a while.
func (s *starter) send() {
	patience := time.NewTimer(linger)
	defer patience.Stop()
	for {
		s.mu.Lock()
		n := min(len(s.waiting), maxStartBatch)
		batch := s.waiting[:n:n]
		s.waiting = s.waiting[n:]
		if n == 0 {
			s.waiting, s.idle = nil, true
		}
		s.mu.Unlock()
		if n > 0 {
			s.sendBatch(batch)
			continue
		}
		patience.Reset(linger)
		select {
		case <-s.wake:
		case <-patience.C:
			if s.leave() {
				return
			}
			<-s.wake // somebody has come in this moment
		}
	}
}

// leave ends the sending, unless somebody has just relied on it.
func (s *starter) leave() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.idle {
		return false
	}
	s.sending, s.idle = false, false
	return true
}

func (s *starter) sendBatch(batch []*starting) {
	// The batch holds the tasks of several: it must not die with the ctx of one.
	ctx := context.WithoutCancel(batch[0].ctx)
	tasks := make([]store.NewTask, len(batch))
	for i, b := range batch {
		tasks[i] = *b.task
	}
	for from := 0; from < len(tasks); {
		to := chunk(tasks, from)
		results, err := s.client.queue.Start(ctx, tasks[from:to])
		for i := from; i < to; i++ {
			switch {
			case err != nil:
				batch[i].done <- err
			default:
				batch[i].done <- results[i-from]
			}
		}
		from = to
	}
}
