package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
)

const (
	asynqProcessed = "asynq:{default}:processed" // attempts that ended, whether well or in failure
	asynqFailed    = "asynq:{default}:failed"    // the failed ones among them
)

// asynqSystem is asynq's client and server, on its default queue.
type asynqSystem struct {
	config asynq.Config
	redis  asynq.RedisClientOpt
	client *asynq.Client
	probe  *redis.Client
}

func asynqEntrant() entrant {
	return asynqWith("asynq", "default settings", asynq.Config{})
}

// asynqFastEntrant is asynq for those who want tasks picked up soon, and pay with polls.
func asynqFastEntrant() entrant {
	return asynqWith("asynq-10ms", "TaskCheckInterval 10 ms (default 1 s)", asynq.Config{TaskCheckInterval: 10 * time.Millisecond})
}

func asynqWith(name, settings string, config asynq.Config) entrant {
	return entrant{
		name:    name,
		about:   "hibiken/asynq v0.26.0, " + settings + "; finished tasks are deleted, as by default",
		missing: func() string { return "" },
		open: func(_ context.Context, addr string, concurrency int) (system, error) {
			server := asynq.RedisClientOpt{Addr: addr, PoolSize: poolSize(concurrency)}
			return &asynqSystem{config: config, redis: server, client: asynq.NewClient(server), probe: newProbe(addr)}, nil
		},
	}
}

func (s *asynqSystem) start(ctx context.Context, data payload) error {
	return s.enqueue(ctx, data)
}

func (s *asynqSystem) startAt(ctx context.Context, at time.Time, data payload) error {
	return s.enqueue(ctx, data, asynq.ProcessAt(at))
}

func (s *asynqSystem) enqueue(ctx context.Context, data payload, options ...asynq.Option) error {
	encoded, err := json.Marshal(data)
	if err != nil {
		return err
	}
	_, err = s.client.EnqueueContext(ctx, asynq.NewTask(taskName, encoded), options...)
	return err
}

// work has the tasks' contexts end with ctx through BaseContext: asynq itself ends none on shutdown, but waits 8 s for their handlers.
func (s *asynqSystem) work(ctx context.Context, concurrency int, handle handler) (func(), error) {
	config := s.config
	config.Concurrency = concurrency
	config.BaseContext = func() context.Context { return ctx }
	config.LogLevel = asynq.ErrorLevel
	server := asynq.NewServer(s.redis, config)
	err := server.Start(asynq.HandlerFunc(func(ctx context.Context, task *asynq.Task) error {
		return handle(ctx, task.Payload())
	}))
	if err != nil {
		return nil, fmt.Errorf("start asynq's server: %w", err)
	}
	return stopAfter(ctx, server.Shutdown), nil
}

// finished counts what the script that ends a task adds up as it deletes the task.
func (s *asynqSystem) finished(ctx context.Context) (int, error) {
	values, err := s.probe.MGet(ctx, asynqProcessed, asynqFailed).Result()
	if err != nil {
		return 0, err
	}
	counts := make([]int, len(values))
	for i, value := range values {
		text, found := value.(string)
		if !found {
			continue // nothing ended so far
		}
		if counts[i], err = strconv.Atoi(text); err != nil {
			return 0, err
		}
	}
	return counts[0] - counts[1], nil
}

func (s *asynqSystem) close() error {
	return errors.Join(s.client.Close(), s.probe.Close())
}
