package redtask

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/redtask/redtask/internal/store"
)

// StartRequest is one task for [Client.StartMany].
type StartRequest struct {
	Task    string // its name
	Data    any    // encoded as JSON, at most [ClientOptions.MaxData] bytes
	Options StartOptions
}

// Start puts a task in line and returns its ID. data is encoded as JSON, at most [ClientOptions.MaxData] bytes; a json.RawMessage goes as it is. Once
// Start returned nil the task is kept until it reaches a final state. Calls from many goroutines share round trips.
func (c *Client) Start(ctx context.Context, task string, data any) (string, error) {
	return c.StartWith(ctx, task, data, StartOptions{})
}

// StartWith is [Client.Start] with options. The ID is that of another task where [StartOptions.Once] says that this one stands for it.
func (c *Client) StartWith(ctx context.Context, task string, data any, options StartOptions) (string, error) {
	fresh, err := c.newTask(ctx, &StartRequest{Task: task, Data: data, Options: options})
	if err != nil {
		return "", err
	}
	if ctx.Err() != nil {
		return "", fmt.Errorf("redtask: start task %s: not started: %w", task, context.Cause(ctx))
	}
	if err := c.announce(ctx); err != nil {
		return "", public(fmt.Errorf("start task %s: not started: %w", task, err))
	}
	id, err := c.starter.start(ctx, fresh)
	if err != nil {
		return "", public(fmt.Errorf("start task %s, ID %q: %w", task, fresh.ID, err))
	}
	return id, nil
}

// StartMany puts many tasks in line, in bulk, and returns their IDs in the order of the requests. A bad request is refused before any is
// started. After another error the IDs tell which were started: a task that was not, or of which that is not known, has "".
func (c *Client) StartMany(ctx context.Context, requests []StartRequest) ([]string, error) {
	tasks := make([]store.NewTask, len(requests))
	var faults []error
	for i := range requests {
		task, err := c.newTask(ctx, &requests[i])
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

func (c *Client) newTask(ctx context.Context, request *StartRequest) (*store.NewTask, error) {
	if c.fault != nil {
		return nil, c.fault
	}
	if err := checkTask(request.Task); err != nil {
		return nil, err
	}
	data, err := encode("data for task "+request.Task, request.Data, c.shared.maxData)
	if err != nil {
		return nil, err
	}
	task := &store.NewTask{ID: request.Options.ID, Task: request.Task, Data: string(data), Keep: request.Options.Keep}
	if headers := c.inherit(ctx, request.Options.Headers); len(headers) > 0 || !request.Options.isPlain() {
		options := request.Options
		options.Headers = headers
		if err := options.encode(task); err != nil {
			return nil, err
		}
	}
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

// starter is group commit for Start: while one call is under way the next batch collects, and goes beside it once it is as large.
type starter struct {
	client *Client
	wake   chan struct{} // capacity maxFlights

	mu      sync.Mutex
	waiting []*starting
	calls   int // under way
	tasks   int // in them
	senders int // goroutines
	idle    int // ... those that wait for more
}

type starting struct {
	ctx  context.Context
	task *store.NewTask // not written to: whoever gave it up still reads it
	done chan started   // capacity 1
}

type started struct {
	id  string // the task's, or that of one that stands for it
	err error
}

// start sees that a task is sent, and returns the ID that it has then. A caller that nobody is before, and whose ctx never ends, sends it
// itself: to hand it to another goroutine and get the answer back takes about as long as Redis does. Any other ctx may end while Redis hangs,
// and its caller must be free then.
func (s *starter) start(ctx context.Context, task *store.NewTask) (string, error) {
	mine := &starting{ctx: ctx, task: task, done: make(chan started, 1)}
	s.mu.Lock()
	s.waiting = append(s.waiting, mine)
	if ctx.Done() == nil && len(s.waiting) == 1 && s.calls == 0 {
		batch := s.take()
		s.mu.Unlock()
		s.sendBatch(batch)
		s.mu.Lock()
		s.end(batch)
		s.summon()
		s.mu.Unlock()
		answer := <-mine.done
		return answer.id, answer.err
	}
	s.summon()
	s.mu.Unlock()
	select {
	case answer := <-mine.done:
		return answer.id, answer.err
	case <-ctx.Done():
		if s.withdraw(mine) {
			return "", fmt.Errorf("not started: redis did not answer: %w", context.Cause(ctx))
		}
		return "", fmt.Errorf("redis did not answer; it may be started all the same: %w", context.Cause(ctx))
	}
}

// ready reports whether a batch may go now. mu is held, as in what follows.
func (s *starter) ready() bool {
	return len(s.waiting) > 0 && (s.calls == 0 || s.calls < maxFlights && len(s.waiting) >= s.tasks)
}

func (s *starter) take() []*starting {
	n := min(len(s.waiting), maxStartBatch)
	batch := s.waiting[:n:n]
	s.waiting = s.waiting[n:]
	s.calls, s.tasks = s.calls+1, s.tasks+n
	return batch
}

func (s *starter) end(batch []*starting) { s.calls, s.tasks = s.calls-1, s.tasks-len(batch) }

// summon has somebody send if a batch may go.
func (s *starter) summon() {
	switch {
	case !s.ready():
	case s.idle > 0:
		s.idle--
		s.wake <- struct{}{}
	case s.senders < maxFlights:
		s.senders++
		go s.send()
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

// linger is how long a sender stays for the next start: growing the stack of a new goroutine takes longer than encoding a task.
const linger = 10 * time.Millisecond

// send sends one batch after the other until there has been none to send for a while.
func (s *starter) send() {
	patience := time.NewTimer(linger)
	defer patience.Stop()
	for {
		s.sendAll()
		patience.Reset(linger)
		select {
		case <-s.wake:
		case <-patience.C:
			if s.leave() {
				return
			}
			<-s.wake // it was summoned in this moment
		}
	}
}

// sendAll returns when there is nothing to send: then the sender counts as idle.
func (s *starter) sendAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.ready() {
		batch := s.take()
		s.summon()
		s.mu.Unlock()
		s.sendBatch(batch)
		s.mu.Lock()
		s.end(batch)
	}
	s.idle++
}

// leave ends a sender, unless all that are idle were summoned.
func (s *starter) leave() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.idle == 0 {
		return false
	}
	s.idle--
	s.senders--
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
			fault := err
			if err == nil {
				fault = results[i-from]
			}
			batch[i].done <- started{tasks[i].ID, fault}
		}
		from = to
	}
}
