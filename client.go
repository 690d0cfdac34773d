package redtask

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redtask/redtask/internal/store"
)

// ClientOptions configure a [Client]. The zero value works.
type ClientOptions struct {
	// Prefix is that of the runners; see [RunnerOptions.Prefix]. Default "redtask".
	Prefix string
	// Queue is the queue that the client talks to. Default "default".
	Queue string
	// MaxData bounds the data of a task, in bytes, as its runners' [RunnerOptions.MaxData] does. Default 1 MiB.
	MaxData int
	// Headers, if not nil, gives headers that each start adds to the task's own: trace context from the ctx of the call, say. See
	// [StartOptions.Headers]. It may be called from several goroutines. Default nil.
	Headers func(ctx context.Context) map[string]string
}

// Client starts, stops, reloads, inspects, watches and waits for the tasks of one queue. It needs no closing, and its methods may be
// called from any goroutine. A call that returned an error of the network may have had its effect; each call may be made again.
type Client struct {
	shared  *shared
	queue   *store.Queue
	starter *starter
	fault   error // what is wrong with the queue's name: each call returns it
}

// shared is what the clients of all queues have in common.
type shared struct {
	store   *store.Store
	maxData int
	headers func(ctx context.Context) map[string]string

	mu        sync.Mutex
	clients   map[string]*Client
	announced map[string]bool
}

// NewClient checks its options, all faults at once, and makes a client; it does not talk to Redis yet. A
// *redis.ClusterClient that reads from replicas is refused: they may lag.
func NewClient(rdb redis.UniversalClient, options ClientOptions) (*Client, error) {
	setDefault(&options.Prefix, DefaultPrefix)
	setDefault(&options.Queue, DefaultQueue)
	setDefault(&options.MaxData, DefaultMaxData)
	if rdb == nil {
		return nil, fmt.Errorf("%w: NewClient: the redis client is nil", ErrInvalid)
	}
	faults := errors.Join(checkPart("prefix", options.Prefix), checkPart("queue", options.Queue), checkMaxData(options.MaxData))
	if err := store.ReadsMaster(rdb); err != nil {
		faults = errors.Join(faults, fmt.Errorf("%w: NewClient: %w", ErrInvalid, err))
	}
	if faults != nil {
		return nil, faults
	}
	s := &shared{store: store.New(rdb, options.Prefix), maxData: options.MaxData, headers: options.Headers, clients: map[string]*Client{}, announced: map[string]bool{}}
	return s.client(options.Queue), nil
}

func (s *shared) client(queue string) *Client {
	if err := checkPart("queue", queue); err != nil {
		return &Client{shared: s, queue: s.store.Queue(queue), fault: err}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.clients[queue]
	if c == nil {
		c = &Client{shared: s, queue: s.store.Queue(queue)}
		c.starter = &starter{client: c, wake: make(chan struct{}, maxFlights)}
		s.clients[queue] = c
	}
	return c
}

// check is where all calls about a task begin.
func (c *Client) check(id string) error {
	if c.fault != nil {
		return c.fault
	}
	return checkID(id)
}

// ForQueue returns a client for another queue. With a bad name each of its calls returns an error that is [ErrInvalid].
func (c *Client) ForQueue(queue string) *Client {
	if queue == c.queue.Name() {
		return c
	}
	return c.shared.client(queue)
}

// Queue is the name of the queue that this client talks to.
func (c *Client) Queue() string { return c.queue.Name() }

// announce makes the queue known, once in the life of a client.
func (c *Client) announce(ctx context.Context) error {
	name := c.queue.Name()
	c.shared.mu.Lock()
	known := c.shared.announced[name]
	c.shared.mu.Unlock()
	if known {
		return nil
	}
	if err := c.shared.store.Announce(ctx, name); err != nil {
		return err
	}
	c.shared.mu.Lock()
	defer c.shared.mu.Unlock()
	c.shared.announced[name] = true
	return nil
}

// Stop stops a task. One in line, or scheduled, is STOPPED when Stop returns. One that runs is told, durably: should its runner miss the
// message, it learns of it at its next renewal, and should the runner die, the task is STOPPED instead of put back; use [Client.Wait] for the
// end. A task that ends by itself meanwhile keeps that end. Stopping a STOPPED task is no error; any other final one is [ErrFinal].
func (c *Client) Stop(ctx context.Context, id string) error {
	if err := c.check(id); err != nil {
		return err
	}
	_, err := c.queue.Stop(ctx, id)
	return public(err)
}

// Reload makes a running task start over with the data of its record: a new instance is made and Init-ed, and only when that worked
// the old one is stopped and the new one started, under the same ID. When Init fails the old one goes on, and the event reload_failed
// says why. A task in line will start with the record's data anyway. [ErrFinal] if the task is final: use [Client.Restart].
func (c *Client) Reload(ctx context.Context, id string) error { return c.reload(ctx, id, nil) }

// ReloadWith is [Client.Reload] with new data, which replaces the old once the new instance took over; a task in line has it at once.
func (c *Client) ReloadWith(ctx context.Context, id string, data any) error {
	encoded, err := encode(fmt.Sprintf("new data for task %q", id), data, c.shared.maxData)
	if err != nil {
		return err
	}
	return c.reload(ctx, id, encoded)
}

func (c *Client) reload(ctx context.Context, id string, data []byte) error {
	if err := c.check(id); err != nil {
		return err
	}
	return public(c.queue.Reload(ctx, id, newID(), data))
}

// Restart runs a task again under its ID with its data and its last checkpoint, its attempts counted anew. A final one goes in line; a
// running one is told to stop first, and then goes in line however it ended; one in line is left alone. A pending stop refuses it, and so
// does another task that has its unique key by now.
func (c *Client) Restart(ctx context.Context, id string) error {
	if err := c.check(id); err != nil {
		return err
	}
	return public(c.queue.Restart(ctx, id, newID()))
}

// Retry runs a task again now that failed or is to run later: one that ended in ERROR or EXCEPTION as [Client.Restart] does, one that is
// SCHEDULED, for another attempt or by a delayed start, with its attempts counted on. One in line is left alone. A [*ConflictError] is one that
// runs ([ErrRunning]), and one that is ENDED or STOPPED ([ErrFinal]).
func (c *Client) Retry(ctx context.Context, id string) error {
	if err := c.check(id); err != nil {
		return err
	}
	return public(c.queue.Retry(ctx, id, newID()))
}

// Remove removes a task that does not run, in line or final, with its record. A task that is gone already is no error; one that runs is
// [ErrRunning].
func (c *Client) Remove(ctx context.Context, id string) error {
	if err := c.check(id); err != nil {
		return err
	}
	return public(c.queue.Remove(ctx, id))
}

// Reschedule makes a task that is SCHEDULED, or in line, due at another time by the clock of Redis; one that is past puts it in line at once.
// A task that runs is [ErrRunning], a final one [ErrFinal].
func (c *Client) Reschedule(ctx context.Context, id string, at time.Time) error {
	if err := c.check(id); err != nil {
		return err
	}
	return public(c.queue.Reschedule(ctx, id, unixMilli(at), 0))
}

// RescheduleIn is [Client.Reschedule] with a time from now on; 0 puts the task in line at once.
func (c *Client) RescheduleIn(ctx context.Context, id string, in time.Duration) error {
	if err := c.check(id); err != nil {
		return err
	}
	if in < 0 {
		return fmt.Errorf("%w: RescheduleIn: %s is negative; use 0 for at once", ErrInvalid, in)
	}
	return public(c.queue.Reschedule(ctx, id, 0, in))
}

// Pause keeps all runners of the queue from taking tasks, until [Client.Resume]: what runs goes on, what is due comes in line, starts are
// accepted, also those of the schedule, and what they may wait at most goes on being counted. Pausing a paused queue is no error.
func (c *Client) Pause(ctx context.Context) error {
	if c.fault != nil {
		return c.fault
	}
	return public(c.queue.Pause(ctx))
}

// Resume ends a [Client.Pause]. Runners take tasks at once; one that does not hear of it, within its RenewInterval.
func (c *Client) Resume(ctx context.Context) error {
	if c.fault != nil {
		return c.fault
	}
	return public(c.queue.Resume(ctx))
}

// Get reads a task's record; [ErrNotFound] if there is none.
func (c *Client) Get(ctx context.Context, id string) (*Record, error) {
	if err := c.check(id); err != nil {
		return nil, err
	}
	hash, err := c.queue.Get(ctx, id)
	if err != nil {
		return nil, public(err)
	}
	return newRecord(c.queue.Name(), id, hash), nil
}

// Wait waits until a task is final, and returns its record. It waits for one that does not exist yet, too, and so for one whose
// record the cleanup has removed: ctx bounds the wait. A task that is removed before its record could be read is [ErrNotFound].
func (c *Client) Wait(ctx context.Context, id string) (*Record, error) {
	for {
		events, err := c.Watch(ctx, id)
		if err != nil {
			return nil, err
		}
		final := false
		for event := range events {
			final = event.final()
		}
		if !final {
			return nil, fmt.Errorf("redtask: wait for task %q: %w", id, context.Cause(ctx))
		}
		record, err := c.Get(ctx, id)
		if err != nil || record.State.Final() {
			return record, err
		} // else somebody has started it again already
	}
}

func newRecord(queue, id string, h map[string]string) *Record {
	r := &Record{
		ID: id, Queue: queue, Task: h["task"], Data: raw(h["data"]), State: State(h["state"]), Runner: h["runner"],
		Epoch: parseInt(h["epoch"]), Attempt: int(parseInt(h["attempt"])), Recoveries: int(parseInt(h["recoveries"])),
		CreatedAt: millis(h["created_at"]), DueAt: millis(h["due_at"]), StartedAt: millis(h["started_at"]), EndedAt: millis(h["ended_at"]),
		Output: raw(h["output"]), Error: h["error"], Stack: h["stack"], Progress: raw(h["progress"]), Checkpoint: raw(h["checkpoint"]),
		Keep: h["keep"] != "", Local: h["local"] != "", ExpiresAt: millis(h["expires_at"]), HeldBy: h["held_by"], Logged: parseInt(h["log"]), History: newHistory(h),
	}
	if text := h["options"]; text != "" {
		o, _ := parseOptions(text) // what is wrong there its run will tell
		r.Priority, r.Key, r.Ordered, r.Headers = o.Priority, o.Key, o.Ordered, o.Headers
		if o.DeadlineAt > 0 {
			r.Deadline = time.UnixMilli(o.DeadlineAt)
		}
	}
	if r.State == "" {
		r.State = StateWait
	}
	return r
}

// raw makes a JSON string of what is not JSON, as only somebody else can have written it: any record can be encoded.
func raw(text string) json.RawMessage {
	if text == "" {
		return nil
	}
	if encoded := json.RawMessage(text); json.Valid(encoded) {
		return encoded
	}
	return json.RawMessage(quote(text))
}

// parseInt reads a number that a script, or a person, wrote; junk counts as absent.
func parseInt(text string) int64 {
	n, _ := strconv.ParseInt(text, 10, 64)
	return n
}

func millis(text string) time.Time {
	if n := parseInt(text); n > 0 {
		return time.UnixMilli(n)
	}
	return time.Time{}
}

// Queues lists the names of all queues under the client's prefix, sorted.
func (c *Client) Queues(ctx context.Context) ([]string, error) {
	names, err := c.shared.store.Queues(ctx)
	if err != nil {
		return nil, public(err)
	}
	slices.Sort(names)
	return names, nil
}

// Counts are the tasks of a queue by state. A number is -1 where the key that would tell it has the wrong type.
type Counts struct {
	Paused     bool             `json:"paused"` // no runner takes tasks
	Wait       int64            `json:"wait"`   // IDs in line, stopped and removed ones that no claim has met yet among them
	Held       int64            `json:"held"`   // tasks that had their turn and wait for a limit, or for those before them of their key
	Scheduled  int64            `json:"scheduled"`
	Running    int64            `json:"running"`
	Ended      int64            `json:"ended"`
	Error      int64            `json:"error"`
	Exception  int64            `json:"exception"`
	Stopped    int64            `json:"stopped"`
	Kept       int64            `json:"kept"`                 // final tasks of any state whose record is to stay
	Dropped    int64            `json:"dropped"`              // IDs found in line that could not be run, since the queue began
	Recovered  int64            `json:"recovered"`            // tasks taken over from dead runners
	Stuck      int64            `json:"stuck"`                // tasks that ignored that they were told to stop
	Additional map[string]int64 `json:"additional,omitempty"` // counters that this version does not know
}

// Counts counts the queue's tasks, in a time that does not depend on their number.
func (c *Client) Counts(ctx context.Context) (*Counts, error) {
	if c.fault != nil {
		return nil, c.fault
	}
	found, err := c.queue.Counts(ctx)
	if err != nil {
		return nil, public(err)
	}
	counts := &Counts{
		Paused: found.Paused, Held: found.Held,
		Wait: found.Wait, Scheduled: found.Scheduled, Running: found.Running, Ended: found.Ended, Error: found.Error,
		Exception: found.Exception, Stopped: found.Stopped, Kept: found.Kept, Additional: maps.Clone(found.Counters),
	}
	for counter, field := range map[string]*int64{"dropped": &counts.Dropped, "recovered": &counts.Recovered, "stuck": &counts.Stuck} {
		*field = counts.Additional[counter]
		delete(counts.Additional, counter)
	}
	return counts, nil
}

// RunnerRecord is what Redis holds of a runner in a queue.
type RunnerRecord struct {
	ID        string    `json:"id"`
	Host      string    `json:"host"`
	PID       int       `json:"pid"`
	Version   string    `json:"version"`
	Tasks     []string  `json:"tasks"` // names that it can run
	StartedAt time.Time `json:"started_at"`
	LeaseEnd  time.Time `json:"lease_end,omitzero"` // by Redis' clock; zero while its tasks are taken over
	Running   int64     `json:"running"`            // tasks that it has
}

// Runners lists the runners of the queue, those that died and were not taken over yet among them.
func (c *Client) Runners(ctx context.Context) ([]RunnerRecord, error) {
	if c.fault != nil {
		return nil, c.fault
	}
	found, err := c.queue.Runners(ctx)
	if err != nil {
		return nil, public(err)
	}
	runners := make([]RunnerRecord, len(found))
	for i, f := range found {
		runners[i] = RunnerRecord{
			ID: f.ID, Host: f.Host, PID: f.PID, Version: f.Version, Tasks: f.Names, StartedAt: time.UnixMilli(f.StartedAt), Running: f.Running,
		}
		if f.LeaseEnd != 0 {
			runners[i].LeaseEnd = time.UnixMilli(f.LeaseEnd)
		}
	}
	return runners, nil
}
