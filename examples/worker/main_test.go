package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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

// eventually polls with a bound. The condition may end the test: it is asked in the test's goroutine.
func (w *world) eventually(what string, condition func() bool) {
	w.Helper()
	ticker, bound := time.NewTicker(10*time.Millisecond), time.After(time.Minute)
	defer ticker.Stop()
	for !condition() {
		select {
		case <-ticker.C:
		case <-bound:
			require.FailNow(w, "it does not come true", what)
		}
	}
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

func (w *world) field(id, field string) string {
	return w.rdb.HGet(context.Background(), key("task:"+id), field).Val()
}

func (w *world) awaitState(id, state string) {
	w.Helper()
	w.eventually(id+" is "+state, func() bool { return w.field(id, "state") == state })
}

// worker is one process of the program.
type worker struct {
	*world
	cmd   *exec.Cmd
	id    string
	log   syncBuffer
	done  chan struct{} // closed when the process has ended
	err   error         // read after done, as is ended
	ended time.Time
}

var started = regexp.MustCompile(`runner started runner=(\w+) pid=(\d+)`)

// worker starts the program and waits until it has registered.
func (w *world) worker(args ...string) *worker {
	w.Helper()
	p := &worker{world: w, cmd: exec.Command(binary, args...), done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), "REDIS_URL=redis://"+w.server.Addr)
	p.cmd.Stderr = &p.log
	require.NoError(w, p.cmd.Start())
	go func() {
		defer close(p.done)
		p.err, p.ended = p.cmd.Wait(), time.Now()
	}()
	w.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it may have ended
		<-p.done
		if w.Failed() {
			w.Logf("log of worker %s:\n%s", p.id, p.log.String())
		}
	})
	w.eventually("the worker says its ID", func() bool { return started.MatchString(p.log.String()) })
	match := started.FindStringSubmatch(p.log.String())
	p.id = match[1]
	require.Equal(w, fmt.Sprint(p.cmd.Process.Pid), match[2])
	w.eventually("the worker has registered", func() bool { return p.hasEnded() || p.isRegistered() })
	return p
}

func (p *worker) isRegistered() bool {
	return p.rdb.ZScore(context.Background(), key("runners"), p.id).Err() == nil
}

func (p *worker) hasEnded() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func (p *worker) signal(s syscall.Signal) {
	p.Helper()
	require.NoError(p, p.cmd.Process.Signal(s))
}

func (p *worker) awaitExit() error {
	p.Helper()
	p.eventually("the worker ends", p.hasEnded)
	return p.err
}

// running counts the tasks that a worker has, its own local ones not counted: monitor, cleanup, cron.
func (p *worker) running() int {
	return int(p.rdb.SCard(context.Background(), key("running:"+p.id)).Val()) - 3
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
