package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redtask/redtask"
)

const (
	redtaskName  = "bench/noop"
	redtaskEvent = "tick"
)

func redtaskEntrant() entrant {
	return entrant{name: subject, about: "redtask " + redtask.Version + ", default options", open: openRedtask}
}

type redtaskSystem struct {
	rdb    *redis.Client
	client *redtask.Client   // of the first queue
	queues []*redtask.Client // that tasks are started in, by turns
	turn   atomic.Int64
}

func openRedtask(_ context.Context, addr string, _ int) (system, error) {
	rdb := redis.NewClient(&redis.Options{Addr: addr})
	client, err := redtask.NewClient(rdb, redtask.ClientOptions{})
	return &redtaskSystem{rdb: rdb, client: client, queues: []*redtask.Client{client}}, err
}

func (s *redtaskSystem) spread(queues int) {
	for i := 1; i < queues; i++ {
		s.queues = append(s.queues, s.client.ForQueue(redtask.DefaultQueue+strconv.Itoa(i)))
	}
}

func (s *redtaskSystem) nextQueue() *redtask.Client {
	return s.queues[s.turn.Add(1)%int64(len(s.queues))]
}

func (s *redtaskSystem) start(ctx context.Context, data payload) error {
	_, err := s.nextQueue().Start(ctx, redtaskName, data)
	return err
}

func (s *redtaskSystem) startMany(ctx context.Context, data []payload) error {
	requests := make([]redtask.StartRequest, len(data))
	for i := range data {
		requests[i] = redtask.StartRequest{Task: redtaskName, Data: data[i]}
	}
	_, err := s.nextQueue().StartMany(ctx, requests)
	return err
}

func (s *redtaskSystem) startAt(ctx context.Context, at time.Time, data payload) error {
	_, err := s.client.StartWith(ctx, redtaskName, data, redtask.StartOptions{At: at})
	return err
}

// job is a task that hands its data to a handler.
type job struct {
	data   json.RawMessage
	handle handler
}

func (j *job) Init(_ context.Context, data json.RawMessage) error {
	j.data = data
	return nil
}

func (j *job) Start(ctx context.Context) error { return j.handle(ctx, j.data) }

func (s *redtaskSystem) work(ctx context.Context, concurrency int, handle handler) (func(), error) {
	registry := redtask.NewRegistry()
	registry.Register(redtaskName, func() redtask.Task { return &job{handle: handle} })
	queues := map[string]int{}
	for _, queue := range s.queues {
		queues[queue.Queue()] = concurrency
	}
	runner, err := redtask.NewRunner(s.rdb, registry, redtask.RunnerOptions{
		Queues: queues, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Grace: redtask.NoGrace,
	})
	if err != nil {
		return nil, err
	}
	if err := runner.Start(ctx); err != nil {
		return nil, err
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		_ = runner.Shutdown(context.WithoutCancel(ctx)) // the server is thrown away next
	}()
	return func() { <-stopped }, nil
}

// cleanupKeeps is how many ended records the runner's cleanup leaves.
const cleanupKeeps = 10_000

func (s *redtaskSystem) finished(ctx context.Context) (int, error) {
	total := 0
	for _, queue := range s.queues {
		n, err := s.finishedIn(ctx, queue)
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}

// finishedIn counts records as long as cleanup has left them all. After that it counts the claims that are over: a claim leaves the running
// set in the call that writes its end. Claims are read first, so the count is never too high.
func (s *redtaskSystem) finishedIn(ctx context.Context, queue *redtask.Client) (int, error) {
	claims, err := s.rdb.Get(ctx, redtask.DefaultPrefix+":{"+queue.Queue()+"}:epoch").Int()
	if err != nil && err != redis.Nil {
		return 0, err
	}
	counts, err := queue.Counts(ctx)
	if err != nil {
		return 0, err
	}
	if bad := counts.Error + counts.Exception + counts.Stopped + counts.Dropped; bad > 0 {
		return 0, fmt.Errorf("%d tasks did not end well", bad)
	}
	if counts.Ended < cleanupKeeps/2 {
		return int(counts.Ended), nil
	}
	return max(int(counts.Ended), claims-int(counts.Running)), nil
}

func (s *redtaskSystem) emit(ctx context.Context, n int) error {
	return redtask.FromContext(ctx).Emit(redtaskEvent, n)
}

func (s *redtaskSystem) watch(ctx context.Context) (iter.Seq[seen], error) {
	events, err := s.client.WatchQueue(ctx)
	if err != nil {
		return nil, err
	}
	return func(yield func(seen) bool) {
		for event := range events {
			if !yield(seen{
				id: event.ID, seq: event.Seq, own: event.Name == redtaskEvent, end: event.Name == redtask.EventEnded,
				gap: event.Name == redtask.EventGap,
			}) {
				return
			}
		}
	}, nil
}

func (s *redtaskSystem) close() error { return s.rdb.Close() }
