package redtask

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redtask/redtask/internal/store"
)

// Version is the library's, as runners tell it in Redis.
const Version = "0.1.0"

// Runner claims tasks from Redis and runs them. Its ID is new at every start of a process. All methods may be called from any
// goroutine. A runner is used once: after Shutdown make a new one.
type Runner struct {
	id      string
	options RunnerOptions
	client  *Client
	engines map[string]*engine

	mu       sync.Mutex
	started  bool
	failure  error // why the runner cannot go on
	shutdown *sync.Once
	stopped  chan struct{} // closed when everything has ended
	result   error         // read after stopped
	failed   chan struct{} // closed when the runner cannot go on
	services sync.WaitGroup
	leases   sync.WaitGroup
	endParts context.CancelFunc // listener, fetcher, promoter
	endLast  context.CancelFunc // committer and lease
}

// NewRunner checks its options, all faults at once, and makes a runner; it does not talk to Redis yet. rdb is a *redis.Client (also one
// for Sentinel) or a *redis.ClusterClient that reads from masters only; the runner does not close it. The registry is read now:
// register all tasks before.
func NewRunner(rdb redis.UniversalClient, registry *Registry, options RunnerOptions) (*Runner, error) {
	options = options.withDefaults()
	if err := options.validate(); err != nil {
		return nil, err
	}
	if rdb == nil {
		return nil, fmt.Errorf("%w: NewRunner: the redis client is nil", ErrInvalid)
	}
	if registry == nil {
		return nil, fmt.Errorf("%w: NewRunner: the registry is nil", ErrInvalid)
	}
	if err := errors.Join(store.CanBlock(rdb), store.ReadsMaster(rdb)); err != nil {
		return nil, fmt.Errorf("%w: NewRunner: %w", ErrInvalid, err)
	}
	if len(registry.Names()) == 0 {
		options.Logger.Warn("this runner knows no tasks: register them before it is made; what no other runner knows ends in EXCEPTION")
	}
	entries, err := options.entries(registry)
	if err != nil {
		return nil, err
	}
	r := &Runner{
		id: newID(), options: options, engines: map[string]*engine{}, stopped: make(chan struct{}), failed: make(chan struct{}),
		shutdown: new(sync.Once),
	}
	client, err := NewClient(rdb, ClientOptions{Prefix: options.Prefix, MaxData: options.MaxData, Headers: options.Headers})
	if err != nil {
		return nil, err
	}
	r.client = client.ForQueue(mainQueue(options.Queues))
	for queue, concurrency := range options.Queues {
		r.engines[queue] = r.newEngine(rdb, entries, queue, concurrency)
	}
	return r, nil
}

func (r *Runner) newEngine(rdb redis.UniversalClient, entries map[string]*entry, queue string, concurrency int) *engine {
	s := store.New(rdb, r.options.Prefix)
	host, _ := os.Hostname() // shown to people only
	e := &engine{
		queue: s.Queue(queue), store: s, runnerID: r.id, options: &r.options, client: r.client.ForQueue(queue), concurrency: concurrency,
		logger: r.options.Logger.With("queue", queue, "runner", r.id), runs: map[string]*Run{}, fail: r.fail,
		entries: entries, wakeCron: make(chan struct{}, 1),
	}
	if queue == mainQueue(r.options.Queues) {
		for i := range r.options.Cron {
			entry, _ := r.options.Cron[i].encode(r.options.MaxData, true) // it was tried before
			e.cronEntries = append(e.cronEntries, *entry)
		}
	}
	e.info = store.RunnerInfo{
		ID: r.id, Host: host, PID: os.Getpid(), Version: Version, Names: slices.Sorted(maps.Keys(e.entries)), StartedAt: time.Now().UnixMilli(),
		Lease: r.options.Lease, Silence: r.options.silence(), Limits: encodeLimits(e.entries),
	}
	e.free.Store(int64(concurrency))
	e.committer, e.fetcher, e.lease, e.promoter = newCommitter(e), newFetcher(e), newLease(e), newPromoter(e)
	return e
}

// ID is this runner's, as Redis shows it.
func (r *Runner) ID() string { return r.id }

// mainQueue is `default` if the runner serves it, else the first by name.
func mainQueue(queues map[string]int) string {
	if _, ok := queues[DefaultQueue]; ok {
		return DefaultQueue
	}
	return slices.Min(slices.Collect(maps.Keys(queues)))
}

// Client talks to the same Redis with the same prefix, in the queue `default` or, if this runner does not serve that, the first of its
// queues by name; see [Client.ForQueue].
func (r *Runner) Client() *Client { return r.client }

// Run starts the runner, waits until ctx ends, and shuts down: it returns when all tasks have ended or are given back, with nil. An
// error says which tasks ignored that they were told to stop, or why the runner could not go on. ctx ends the runner, not its tasks:
// these are told as [RunnerOptions.Grace] says.
func (r *Runner) Run(ctx context.Context) error {
	if err := r.Start(ctx); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
	case <-r.failed:
	case <-r.stopped:
		return r.result
	}
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.longestShutdown())
	defer cancel()
	return r.Shutdown(bounded)
}

func (r *Runner) longestShutdown() time.Duration {
	longest := time.Duration(0)
	for _, e := range r.engines {
		for _, entry := range e.entries {
			longest = max(longest, entry.options.StopTimeout)
		}
	}
	return max(0, r.options.Grace) + longest + r.options.StuckAfter
}

// Start begins to run tasks and returns at once; Redis may be away at that time. ctx gives its values to the tasks' contexts, its end
// means nothing. Pair it with [Runner.Shutdown]. A second call is an error. A runner that cannot go on, since Redis holds another version
// of the protocol, say, logs it; only [Runner.Run] and [Runner.Shutdown] return it.
func (r *Runner) Start(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.started {
		return fmt.Errorf("redtask: this runner was started before: make a new one")
	}
	r.started = true
	values := context.WithoutCancel(ctx)
	parts, endParts := context.WithCancel(values)
	last, endLast := context.WithCancel(values)
	r.endParts, r.endLast = endParts, endLast
	for _, e := range r.engines {
		r.startEngine(e, values, parts, last)
	}
	r.services.Go(func() { r.checkMemory(parts) })
	return nil
}

func (r *Runner) startEngine(e *engine, values, parts, last context.Context) {
	e.taskContext = store.WithRunner(values, &store.Bound{Queue: e.queue, Runner: e.runnerID, Logger: e.options.Logger, Wake: e.wakeCron, Entries: e.cronEntries})
	e.localContext, e.endLocals = context.WithCancel(parts)
	for _, serve := range []func(context.Context){e.fetcher.Serve, e.promoter.Serve, e.listen} {
		r.services.Go(func() { serve(parts) })
	}
	r.leases.Go(func() { e.committer.Serve(last) })
	r.leases.Go(func() { e.lease.Serve(last) })
	for _, local := range r.options.Locals {
		e.startLocal(&localTask{engine: e, id: newID(), name: local.Name, data: []byte("null"), running: make(chan struct{}, 1)})
	}
}

// fail ends the runner for a reason that no time will mend.
func (r *Runner) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failure != nil {
		return
	}
	r.failure = err
	r.options.Logger.Error("the runner cannot go on: shut it down", "runner", r.id, "error", err)
	close(r.failed)
}

func (r *Runner) engineOf(queue string) (*engine, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.engines[queue]
	switch {
	case e == nil:
		return nil, fmt.Errorf("%w: this runner does not serve queue %q; it serves %s", ErrInvalid, queue,
			strings.Join(slices.Sorted(maps.Keys(r.engines)), ", "))
	case e.localContext == nil:
		return nil, fmt.Errorf("redtask: the runner is not started")
	}
	return e, nil
}

// Shutdown gives everything back, in this order: no more claims; tasks with [Stopper] are told, others have [RunnerOptions.Grace], then
// their ctx is cancelled; each goes back to the head of the line after its goroutine returned, without an attempt counted; the lease
// is given up last. It returns when that is done, or soon after ctx ends: then the error names the tasks that did not return. These stay
// leased until the lease ends, and then run elsewhere, whether they have returned here or not. Where ctx has a deadline, the grace period
// takes at most half of the time left: so all tasks are told, and have time to obey. An error also says why a runner could not
// go on before, such as another version of the protocol in Redis. Further calls wait for the first.
func (r *Runner) Shutdown(ctx context.Context) error {
	r.mu.Lock()
	started := r.started
	r.started = true
	r.mu.Unlock()
	r.shutdown.Do(func() {
		defer close(r.stopped)
		if started {
			r.result = r.stop(ctx)
		}
	})
	<-r.stopped
	return r.result
}

func (r *Runner) stop(ctx context.Context) error {
	for _, e := range r.engines {
		e.beginDrain()
	}
	r.endParts()
	drained := r.inEach(func(e *engine) error { return e.drain(ctx) })
	r.services.Wait()
	r.endLast()
	r.leases.Wait()
	for _, e := range r.engines {
		e.workers.close()
	}
	unregistered := r.inEach(func(e *engine) error { return e.unregister(ctx) })
	r.mu.Lock()
	defer r.mu.Unlock()
	return errors.Join(r.failure, drained, unregistered)
}

// inEach calls a function for all engines at once.
func (r *Runner) inEach(do func(*engine) error) error {
	faults := make(chan error, len(r.engines))
	for _, e := range r.engines {
		go func() { faults <- do(e) }()
	}
	var all []error
	for range r.engines {
		all = append(all, <-faults)
	}
	return errors.Join(all...)
}
