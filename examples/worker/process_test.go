package main

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask"
)

// A task that ignores its ctx can be stopped only when it returns. It does not hold up the end of its worker for ever, and stays leased:
// nobody else runs it before the lease ends.
func TestStubborn(t *testing.T) {
	w := newWorld(t)
	options := []string{"-grace", "0", "-lease", "3s"}
	p := w.worker(options...)
	w.start("short", "example/stubborn", `{"ms":3000}`)
	w.awaitState("short", "RUNNING")
	require.Equal(t, "1", w.cli("PUBLISH", key("control:short"), "stop"))
	w.awaitState("short", "STOPPED")

	events := w.watch("mule")
	w.start("mule", "example/stubborn", `{"ms":3600000}`)
	require.Equal(t, "running", w.next(events).Name)
	require.Equal(t, "sleeps", w.next(events).Name)
	p.signal(syscall.SIGTERM)
	require.Equal(t, "stuck", w.next(events).Name)
	require.ErrorContains(t, p.awaitExit(), "exit status 1")
	require.Contains(t, p.log.String(), "example/stubborn (ID mule)")
	require.Equal(t, "RUNNING", w.field("mule", "state"))

	w.cli("HSET", key("task:mule"), "data", `{"ms":1}`)
	w.worker(options...)
	w.awaitState("mule", "ENDED")
	require.Equal(t, "1", w.field("mule", "recoveries"))
}

// Who cannot wait for the tasks sends a second signal.
func TestSecondSignalKills(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(s.String(), func(t *testing.T) {
			w := newWorld(t)
			p := w.worker()
			events := w.watch("mule")
			w.start("mule", "example/stubborn", `{"ms":3600000}`)
			require.Equal(t, "running", w.next(events).Name)
			require.Equal(t, "sleeps", w.next(events).Name)
			w.eventually("a further signal ends it", func() bool {
				_ = p.cmd.Process.Signal(s) // it may have ended
				return p.hasEnded()
			})
			require.EqualError(t, p.awaitExit(), "signal: "+s.String())
			require.Equal(t, "RUNNING", w.field("mule", "state"))
		})
	}
}

func TestSigintEndsIdleWorker(t *testing.T) {
	w := newWorld(t)
	p := w.worker("-queues", "default=5,mail", "-prefix", "redtask")
	p.signal(syscall.SIGINT)
	require.NoError(t, p.awaitExit())
	require.Contains(t, p.log.String(), "runner ended")
	require.False(t, p.isRegistered())
}

// A worker that cannot start says why, once, and ends with 1.
func TestBadStart(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		url   string
		args  []string
		fault string
	}{
		{"localhost:6379", nil, "worker: REDIS_URL: redis: invalid URL scheme"},
		{"", []string{"-nothing"}, "worker: flag provided but not defined: -nothing; see -help"},
		{"", []string{"-lease", "soon"}, `worker: invalid value "soon" for flag -lease`},
		{"", []string{"-concurrency", "0"}, "worker: redtask: invalid input"},
	} {
		cmd := exec.Command(binary, c.args...)
		cmd.Env = append(os.Environ(), "REDIS_URL="+c.url)
		out, err := cmd.CombinedOutput()
		require.ErrorContains(t, err, "exit status 1", string(out))
		require.Equal(t, 1, strings.Count(string(out), c.fault), string(out))
		require.NotContains(t, string(out), "goroutine", c.fault)
	}
	out, err := exec.Command(binary, "-help").CombinedOutput()
	require.NoError(t, err, string(out))
	for _, name := range []string{"-queues", "-concurrency", "-lease", "-grace", "-prefix"} {
		require.Contains(t, string(out), name)
	}
}

func TestFlags(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"-queues", "a=x"}, {"-queues", "a="}, {"-queues", "a=0"}, {"-queues", "a,b=2,a"}, {"-queues", "{a}"}, {"-queues", ""},
		{"-concurrency", "0"}, {"-lease", "1ms"}, {"-grace", "-5s"}, {"-prefix", "a{b"}, {"stray"}, {"-nothing"},
	} {
		var out syncBuffer
		require.Error(t, run(t.Context(), args, &out), args)
		require.Empty(t, out.String(), args)
	}
	options, err := parse([]string{"-queues", "default,mail=3", "-concurrency", "7", "-grace", "0"}, &syncBuffer{})
	require.NoError(t, err)
	require.Equal(t, map[string]int{"default": 7, "mail": 3}, options.Queues)
	require.Equal(t, redtask.NoGrace, options.Grace)
}
