package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/gocraft/work"
	redigo "github.com/gomodule/redigo/redis"
	"github.com/redis/go-redis/v9"
)

const gocraftNamespace = "bench"

// gocraftSystem is an enqueuer and a worker pool of gocraft/work.
type gocraftSystem struct {
	pool     *redigo.Pool
	probe    *redis.Client
	enqueuer *work.Enqueuer
}

// gocraftContext is what gocraft/work makes anew for each task.
type gocraftContext struct{}

func gocraftEntrant() entrant {
	return entrant{
		name: "gocraft",
		about: "gocraft/work v0.5.1, default settings (an idle worker polls after 10 ms, 0.1 s, 1 s, then each 5 s; this version has no option " +
			"for that); finished jobs are deleted",
		missing: func() string { return "" },
		open: func(_ context.Context, addr string, concurrency int) (system, error) {
			pool := newRedigoPool(addr, poolSize(concurrency))
			return &gocraftSystem{pool: pool, probe: newProbe(addr), enqueuer: work.NewEnqueuer(gocraftNamespace, pool)}, nil
		},
	}
}

// newRedigoPool keeps its connections, and has callers wait for one when all are in use, as the README's does.
func newRedigoPool(addr string, size int) *redigo.Pool {
	return &redigo.Pool{
		MaxActive: size,
		MaxIdle:   size,
		Wait:      true,
		Dial:      func() (redigo.Conn, error) { return redigo.Dial("tcp", addr) },
	}
}

func (s *gocraftSystem) start(_ context.Context, data payload) error {
	_, err := s.enqueuer.Enqueue(taskName, gocraftArguments(data))
	return err
}

// startAt rounds up to the second, gocraft/work's unit.
func (s *gocraftSystem) startAt(_ context.Context, at time.Time, data payload) error {
	due := at.Add(time.Second - 1).Unix()
	_, err := s.enqueuer.EnqueueIn(taskName, due-time.Now().Unix(), gocraftArguments(data))
	return err
}

func (s *gocraftSystem) work(ctx context.Context, concurrency int, handle handler) (func(), error) {
	workers := work.NewWorkerPool(gocraftContext{}, uint(concurrency), gocraftNamespace, s.pool)
	workers.Job(taskName, func(job *work.Job) error {
		data, err := gocraftData(job)
		if err != nil {
			return err
		}
		return handle(ctx, data)
	})
	workers.Start()
	return stopAfter(ctx, workers.Stop), nil
}

// finished counts the LREM commands that Redis has executed, as gocraft/work keeps no count: a worker ends each task with one, which takes
// it from the list of those in progress. The server must be gocraft/work's alone, and its statistics must not be reset.
func (s *gocraftSystem) finished(ctx context.Context) (int, error) {
	statistics, err := s.probe.Info(ctx, "commandstats").Result()
	if err != nil {
		return 0, err
	}
	_, after, found := strings.Cut(statistics, "cmdstat_lrem:calls=")
	if !found {
		return 0, nil
	}
	var calls int
	if _, err := fmt.Sscanf(after, "%d", &calls); err != nil {
		return 0, fmt.Errorf("read how often LREM was called: %w", err)
	}
	return calls, nil
}

func (s *gocraftSystem) close() error { return errors.Join(s.pool.Close(), s.probe.Close()) }

func gocraftArguments(data payload) work.Q {
	arguments := work.Q{"i": data.I, "text": data.Text}
	if data.Sent != 0 {
		arguments["sent"] = data.Sent
	}
	return arguments
}

// gocraftData reads a job's arguments as the README does, but Sent, which passes the numbers that ArgInt64 takes. It is out by up to
// 128 ns, as gocraft/work decodes each number as a float64.
func gocraftData(job *work.Job) (json.RawMessage, error) {
	data := payload{I: int(job.ArgInt64("i")), Text: job.ArgString("text")}
	if err := job.ArgError(); err != nil {
		return nil, err
	}
	if sent, found := job.Args["sent"]; found {
		number, isNumber := sent.(float64)
		if !isNumber {
			return nil, fmt.Errorf("sent is no number: %v", sent)
		}
		data.Sent = int64(number)
	}
	return json.Marshal(data)
}
