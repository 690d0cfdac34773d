package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/redtask/redtask"
)

// drainQueues fills several queues with their shares of n tasks, and empties them with one runner.
func (c *child) drainQueues(ctx context.Context) error {
	s, ok := c.system.(*redtaskSystem)
	if !ok {
		return errUnsupported
	}
	queues := map[string]int{}
	for i := range c.queues {
		queues[fmt.Sprint("queue", i)] = c.concurrency / c.queues
	}
	share := c.n / c.queues
	for queue := range queues {
		requests := make([]redtask.StartRequest, share)
		for i := range requests {
			requests[i] = redtask.StartRequest{Task: redtaskName, Data: payload{I: i, Text: "hello world"}}
		}
		if _, err := s.client.In(queue).StartMany(ctx, requests); err != nil {
			return err
		}
	}
	handled, all := atomic.Int64{}, make(chan struct{})
	registry := redtask.NewRegistry()
	registry.Register(redtaskName, func() redtask.Task {
		return &job{handle: func(context.Context, json.RawMessage) error {
			if handled.Add(1) == int64(share*c.queues) {
				close(all)
			}
			return nil
		}}
	})
	runner, err := redtask.NewRunner(s.rdb, registry, redtask.RunnerOptions{Queues: queues, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		return err
	}
	span, err := c.span()
	if err != nil {
		return err
	}
	if err := runner.Start(ctx); err != nil {
		return err
	}
	defer func() { _ = runner.Shutdown(context.WithoutCancel(ctx)) }() // the server is thrown away next
	select {
	case <-all:
	case <-ctx.Done():
		return nil
	}
	for queue := range queues {
		if err := s.awaitNone(ctx, queue); err != nil {
			return err
		}
	}
	return c.sayEnd(span, eventDone)
}

// localTasks are the runner's own, which do not end: monitor and cleanup.
const localTasks = 2

// awaitNone waits until Redis has the ends of all tasks of a queue.
func (s *redtaskSystem) awaitNone(ctx context.Context, queue string) error {
	for {
		counts, err := s.client.In(queue).Counts(ctx)
		if err != nil || counts.Wait == 0 && counts.Running <= localTasks {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pollFinished):
		}
	}
}
