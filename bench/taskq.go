package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"sync"
	"sync/atomic"
	"time"

	redisv8 "github.com/go-redis/redis/v8"
	"github.com/redis/go-redis/v9"
	"github.com/vmihailenco/taskq/v3"
	"github.com/vmihailenco/taskq/v3/redisq"
)

const (
	taskqQueue  = "bench"
	taskqStream = "taskq:{" + taskqQueue + "}:stream"
)

// taskqSystem is a queue of taskq on a Redis stream.
type taskqSystem struct {
	client *redisv8.Client
	probe  *redis.Client
	queue  taskq.Queue
	task   *taskq.Task
	run    atomic.Pointer[taskqRun]
}

// taskqRun is what the tasks do while a worker runs.
type taskqRun struct {
	ctx    context.Context
	handle handler
}

func taskqEntrant() entrant {
	return entrant{
		name: "taskq",
		about: "vmihailenco/taskq v3.2.9 on a Redis stream (redisq), as many workers as the concurrency from the first task on (MinNumWorker = " +
			"MaxNumWorker, which turns autotuning off), else default settings (ReservationSize and buffer 10: 30 to 300 are no faster; no rate " +
			"limit); finished messages are deleted",
		missing: func() string { return "" },
		open: func(_ context.Context, addr string, concurrency int) (system, error) {
			return openTaskq(addr, concurrency)
		},
	}
}

func openTaskq(addr string, concurrency int) (*taskqSystem, error) {
	silenceTaskq()
	s := &taskqSystem{
		client: redisv8.NewClient(&redisv8.Options{Addr: addr, PoolSize: poolSize(concurrency)}),
		probe:  newProbe(addr),
	}
	tasks := &taskq.TaskMap{} // of this system, not the package's own
	task, err := tasks.Register(&taskq.TaskOptions{Name: taskName, Handler: s.handle})
	if err != nil {
		return nil, err
	}
	s.task = task
	s.queue = redisq.NewQueue(&taskq.QueueOptions{Name: taskqQueue, Redis: s.client, Handler: tasks})
	return s, nil
}

// silenceTaskq discards its log, which every second complains that a stream to which nothing was added yet does not exist.
var silenceTaskq = sync.OnceFunc(func() { taskq.SetLogger(log.New(io.Discard, "", 0)) })

func (s *taskqSystem) start(ctx context.Context, data payload) error {
	return s.add(ctx, 0, data)
}

func (s *taskqSystem) startAt(ctx context.Context, at time.Time, data payload) error {
	return s.add(ctx, time.Until(at), data)
}

func (s *taskqSystem) add(ctx context.Context, delay time.Duration, data payload) error {
	encoded, err := json.Marshal(data)
	if err != nil {
		return err
	}
	message := s.task.WithArgs(ctx, encoded)
	message.SetDelay(delay)
	return s.queue.Add(message)
}

// work sets how many workers there are in the queue's options, which the consumer reads as it is made. The consumer's own context must
// outlive ctx, as taskq also deletes finished messages with it.
func (s *taskqSystem) work(ctx context.Context, concurrency int, handle handler) (func(), error) {
	s.run.Store(&taskqRun{ctx: ctx, handle: handle})
	options := s.queue.Options()
	options.MinNumWorker, options.MaxNumWorker = int32(concurrency), int32(concurrency)
	consumer := taskq.NewConsumer(s.queue)
	if err := consumer.Start(context.WithoutCancel(ctx)); err != nil {
		return nil, fmt.Errorf("start taskq's consumer: %w", err)
	}
	return stopAfter(ctx, func() { stopTaskqConsumer(consumer) }), nil
}

func (s *taskqSystem) handle(_ context.Context, data []byte) error {
	run := s.run.Load()
	return run.handle(run.ctx, data)
}

// finished counts the messages that the stream had and has no more: taskq acknowledges a message whose handler returned, then deletes it.
func (s *taskqSystem) finished(ctx context.Context) (int, error) {
	stream, err := s.probe.XInfoStream(ctx, taskqStream).Result()
	if redis.HasErrorPrefix(err, "ERR no such key") {
		return 0, nil // nothing started so far
	}
	if err != nil {
		return 0, err
	}
	return int(stream.EntriesAdded - stream.Length), nil
}

func (s *taskqSystem) close() error {
	return errors.Join(s.queue.Close(), s.client.Close(), s.probe.Close())
}

// stopTaskqConsumer waits for the running handlers and their messages' deletion, but not for the fetcher, whose read of the stream blocks for
// up to a second more: taskq's workers spin meanwhile, so that its graceful stop takes 12 s with 1,000 of them. Messages that were read but
// not handled stay pending in the stream.
func stopTaskqConsumer(consumer *taskq.Consumer) {
	_ = consumer.StopTimeout(0) // always says that the time was too short
	for consumer.Stats().InFlight > 0 {
		time.Sleep(time.Millisecond)
	}
}
