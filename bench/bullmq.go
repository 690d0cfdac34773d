package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

const bullmqCompleted = "bull:bench:completed"

// bullmqSystem is a queue of BullMQ, and a worker, in a Node process of its own.
type bullmqSystem struct {
	node  *nodeProcess
	probe *redis.Client
	run   atomic.Pointer[bullmqRun]
}

func (s *bullmqSystem) pid() int { return s.node.cmd.Process.Pid }

// bullmqRun is what the tasks do while a worker runs.
type bullmqRun struct {
	ctx    context.Context
	handle handler
}

func bullmqEntrant() entrant {
	return entrant{
		name: "bullmq",
		about: "BullMQ 6.7.0 with ioredis 5.11.1, one Node process, default settings (finished jobs stay in Redis). Starts and tasks go through a " +
			"pipe: in Node alone it starts twice as many one by one, 1.2 times as many from 32 producers, and drains 1.3 times as fast at " +
			"concurrency 10, 1.1 times at 100 or more",
		missing: func() string {
			if _, err := exec.LookPath("node"); err != nil {
				return "no node in PATH: apt-get install -y nodejs npm"
			}
			if _, err := os.Stat(filepath.Join(bullmqDir(), "node_modules", "bullmq")); err != nil {
				return "BullMQ is not installed: cd bench/bullmq && npm ci"
			}
			return ""
		},
		open: func(ctx context.Context, addr string, _ int) (system, error) { return openBullMQ(ctx, addr) },
	}
}

func openBullMQ(ctx context.Context, addr string) (*bullmqSystem, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	s := &bullmqSystem{probe: newProbe(addr)}
	s.node, err = startNode(s.handle, filepath.Join(bullmqDir(), "peer.js"), host, port)
	if err != nil {
		return nil, errors.Join(err, s.probe.Close())
	}
	if err := s.node.call(ctx, nodeCall{Operation: "open"}); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// bullmqDir is beside this file, where `go run` and `go test` are used on a checkout.
func bullmqDir() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "bullmq")
}

func (s *bullmqSystem) start(ctx context.Context, data payload) error {
	return s.node.call(ctx, nodeCall{Operation: "start", Data: data})
}

func (s *bullmqSystem) startMany(ctx context.Context, data []payload) error {
	return s.node.call(ctx, nodeCall{Operation: "startMany", Data: data})
}

func (s *bullmqSystem) startAt(ctx context.Context, at time.Time, data payload) error {
	return s.node.call(ctx, nodeCall{Operation: "startAt", At: at.UnixMilli(), Data: data})
}

func (s *bullmqSystem) work(ctx context.Context, concurrency int, handle handler) (func(), error) {
	s.run.Store(&bullmqRun{ctx: ctx, handle: handle})
	if err := s.node.call(ctx, nodeCall{Operation: "work", Concurrency: concurrency}); err != nil {
		return nil, fmt.Errorf("start BullMQ's worker: %w", err)
	}
	return stopAfter(ctx, func() {
		_ = s.node.call(context.WithoutCancel(ctx), nodeCall{Operation: "stop"}) // fails if the process has ended, and the worker with it
	}), nil
}

func (s *bullmqSystem) handle(data json.RawMessage) error {
	run := s.run.Load()
	return run.handle(run.ctx, data)
}

// finished counts the set of completed jobs.
func (s *bullmqSystem) finished(ctx context.Context) (int, error) {
	count, err := s.probe.ZCard(ctx, bullmqCompleted).Result()
	return int(count), err
}

func (s *bullmqSystem) close() error {
	return errors.Join(s.node.close(), s.probe.Close())
}
