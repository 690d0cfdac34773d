package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask/internal/redistest"
)

var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "worker")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "worker")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		fmt.Fprintln(os.Stderr, string(out), err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// world is one real Redis, spoken to with nothing but plain commands.
type world struct {
	*testing.T
	server *redistest.Server
	rdb    *redis.Client
}

func newWorld(t *testing.T) *world {
	t.Helper()
	t.Parallel()
	server := redistest.Start(t)
	return &world{T: t, server: server, rdb: server.Client(t)}
}

func key(rest string) string { return "redtask:{default}:" + rest }

// worker starts the program and waits until it has registered.
func (w *world) worker(args ...string) *worker {
	w.Helper()
	p := &worker{world: w, cmd: exec.Command(binary, args...)}
	p.cmd.Env = append(os.Environ(), "REDIS_URL=redis://"+w.server.Addr)
	p.cmd.Stderr = &p.log
	require.NoError(w, p.cmd.Start())
	done := make(chan error, 1)
	p.done = done
	go func() { done <- p.cmd.Wait() }()
	w.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it may have ended
		if w.Failed() {
			w.Log("log of worker " + p.id + ":\n" + p.log.String())
		}
	})
	w.eventually("the worker says its ID", func() bool {
		_, err := fmt.Sscanf(p.log.String(), "worker %s", &p.id)
		p.id = strings.TrimSuffix(p.id, ",")
		return err == nil
	})
	w.eventually("the worker has its lease", func() bool {
		return w.rdb.ZScore(context.Background(), key("runners"), p.id).Err() == nil
	})
	return p
}

type worker struct {
	*world
	cmd  *exec.Cmd
	id   string
	log  syncBuffer
	done <-chan error // of the process
}

func (p *worker) signal(s syscall.Signal) {
	p.Helper()
	require.NoError(p, p.cmd.Process.Signal(s))
}

func (p *worker) awaitExit() error {
	p.Helper()
	select {
	case err := <-p.done:
		return err
	case <-time.After(time.Minute):
		require.FailNow(p, "the worker does not end")
		return nil
	}
}

// running counts the tasks that a worker has, its monitor and cleanup not counted.
func (p *worker) running() int {
	return int(p.rdb.SCard(context.Background(), key("running:"+p.id)).Val()) - 2
}

type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func (w *world) eventually(what string, condition func() bool) {
	w.Helper()
	require.Eventually(w, condition, time.Minute, 10*time.Millisecond, what)
}

// cli runs redis-cli.
func (w *world) cli(args ...string) string {
	w.Helper()
	_, port, _ := strings.Cut(w.server.Addr, ":")
	out, err := exec.Command("redis-cli", append([]string{"-p", port}, args...)...).CombinedOutput()
	require.NoError(w, err, string(out))
	return strings.TrimSpace(string(out))
}

// start starts a task as anyone can.
func (w *world) start(id, task, data string) {
	w.Helper()
	w.cli("HSET", key("task:"+id), "task", task, "data", data)
	w.cli("LPUSH", key("wait"), id)
}

func (w *world) field(id, field string) string { return w.cli("HGET", key("task:"+id), field) }

func (w *world) awaitState(id, state string) {
	w.Helper()
	w.eventually(id+" is "+state, func() bool { return w.field(id, "state") == state })
}
