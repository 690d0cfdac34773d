package main

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask/internal/redistest"
)

// process is the program, as it is deployed.
type process struct {
	cmd    *exec.Cmd
	url    string
	stderr bytes.Buffer  // read after done
	done   chan struct{} // closed when stderr has ended
}

func build(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "http")
	out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput()
	require.NoError(t, err, string(out))
	return binary
}

// launch starts the program and waits until it listens.
func launch(t *testing.T, server *redistest.Server) *process {
	t.Helper()
	p := &process{cmd: exec.Command(build(t), "-listen", "127.0.0.1:0"), done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), "REDIS_URL=redis://"+server.Addr)
	stderr, err := p.cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it may have ended
		<-p.done
		if t.Failed() {
			t.Log("log of the service:\n" + p.stderr.String())
		}
	})
	lines := bufio.NewScanner(stderr)
	found := false
	for !found && lines.Scan() {
		p.url, found = strings.CutPrefix(lines.Text(), "listening on ")
	}
	go func() {
		defer close(p.done)
		for lines.Scan() {
			p.stderr.WriteString(lines.Text() + "\n")
		}
	}()
	require.True(t, found, "it does not listen")
	return p
}

func (p *process) awaitExit(t *testing.T) error {
	t.Helper()
	select {
	case <-p.done:
		return p.cmd.Wait()
	case <-time.After(time.Minute):
		require.FailNow(t, "the service does not end")
		return nil
	}
}

// SIGTERM ends the service in order: streams end, and the running task is back in line, with no attempt counted.
func TestGracefulShutdown(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	p := launch(t, server)
	id := start(t, p.url, `{"to":1000000,"every":"20ms"}`)
	events := stream(t, p.url, id)
	for name := ""; name != "count"; {
		name, _ = next(t, events)
		require.NotEmpty(t, name)
	}
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	for name, _ := next(t, events); name != ""; name, _ = next(t, events) {
		require.Equal(t, "count", name)
	}
	require.NoError(t, events.Err(), "the stream ends in order, it is not cut")
	require.NoError(t, p.awaitExit(t))
	task, rdb := "redtask:{counting}:task:"+id, server.Client(t)
	require.Equal(t, "0", rdb.HGet(t.Context(), task, "attempt").Val())
	require.ErrorIs(t, rdb.HGet(t.Context(), task, "state").Err(), redis.Nil, "no state is WAIT")
	require.Equal(t, []string{id}, rdb.LRange(t.Context(), "redtask:{counting}:wait", 0, -1).Val())
}

// A runner that cannot go on ends the service: it must not take requests that nobody here will run, and say nothing.
func TestRunnerFails(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	require.NoError(t, server.Client(t).Set(t.Context(), "redtask:protocol", "999", 0).Err())
	p := launch(t, server)
	require.ErrorContains(t, p.awaitExit(t), "exit status 1")
	require.Contains(t, p.stderr.String(), `redtask:protocol says "999"`)
}

func TestBadStart(t *testing.T) {
	t.Parallel()
	binary := build(t)
	for _, c := range []struct{ address, url, fault string }{
		{"127.0.0.1:0", "localhost:6379", "http: REDIS_URL: redis: invalid URL scheme"},
		{"127.0.0.1:notaport", "redis://127.0.0.1:1", "http: listen tcp"},
	} {
		cmd := exec.Command(binary, "-listen", c.address)
		cmd.Env = append(os.Environ(), "REDIS_URL="+c.url)
		out, err := cmd.CombinedOutput()
		require.ErrorContains(t, err, "exit status 1", string(out))
		require.Contains(t, string(out), c.fault)
	}
}
