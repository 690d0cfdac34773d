package builtin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask"
	"github.com/redtask/redtask/builtin"
)

// within starts a runner whose tasks are within middleware.
func (e *env) within(t *testing.T, registry *redtask.Registry, logger *slog.Logger, middleware ...redtask.Middleware) {
	t.Helper()
	runner, err := redtask.NewRunner(e.rdb, registry, redtask.RunnerOptions{
		Prefix: e.prefix, Locals: []redtask.Local{}, Grace: redtask.NoGrace, Logger: logger, Middleware: middleware,
	})
	require.NoError(t, err)
	require.NoError(t, runner.Start(t.Context()))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		require.NoError(t, runner.Shutdown(ctx))
	})
}

func receive[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case value := <-from:
		return value
	case <-deadline(t).Done():
		require.FailNow(t, "nothing arrived")
		panic("unreachable")
	}
}

// lines are what a logger wrote, decoded.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// of picks the lines of a task that Logging wrote.
func (l *lines) of(t *testing.T, id string) []map[string]any {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []map[string]any
	for line := range strings.SplitSeq(strings.TrimSpace(l.buf.String()), "\n") {
		var decoded map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &decoded), line)
		if message := decoded["msg"]; decoded["id"] == id && (message == "task starts" || message == "task returned") {
			found = append(found, decoded)
		}
	}
	return found
}

// Each run has two lines with the run's attributes, at the chosen levels.
func TestLogging(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		running := make(chan string, 10)
		registry := redtask.NewRegistry()
		registry.Register("test/x", redtask.Func(func(ctx context.Context, kind string) error {
			switch kind {
			case "fail":
				return redtask.Failf("no milk")
			case "surprise":
				return errors.New("surprise")
			case "panic":
				panic("boom")
			case "goexit":
				runtime.Goexit()
			case "block":
				running <- redtask.FromContext(ctx).ID()
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}))
		log, lowered := &lines{}, &slog.LevelVar{}
		lowered.Set(slog.LevelDebug)
		logger := slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		e.within(t, registry, logger, builtin.Logging(builtin.LoggingOptions{Start: lowered}))
		run := func(kind string) []map[string]any {
			id, err := e.client.Start(deadline(t), "test/x", kind)
			require.NoError(t, err)
			if kind == "block" {
				receive(t, running)
				require.NoError(t, e.client.Reload(deadline(t), id))
				receive(t, running)
				require.NoError(t, e.client.Stop(deadline(t), id))
			}
			e.wait(t, id)
			return log.of(t, id)
		}
		for kind, want := range map[string][]string{ // level, outcome, error
			"fine":     {"INFO", "ENDED", ""},
			"fail":     {"WARN", "ERROR", "no milk"},
			"surprise": {"WARN", "EXCEPTION", "surprise"},
			"panic":    {"WARN", "EXCEPTION", "panic: boom"},
			"goexit":   {"WARN", "EXCEPTION", "the task ended its goroutine"},
		} {
			found := run(kind)
			require.Len(t, found, 2, kind)
			begin, end := found[0], found[1]
			require.Equal(t, "task starts", begin["msg"])
			require.Equal(t, "DEBUG", begin["level"])
			require.Equal(t, "test/x", begin["task"])
			require.EqualValues(t, 1, begin["attempt"])
			require.Equal(t, "task returned", end["msg"])
			require.Equal(t, want[0], end["level"], kind)
			require.Equal(t, want[1], end["outcome"], kind)
			require.GreaterOrEqual(t, end["duration"], 0.0)
			message, _ := end["error"].(string)
			require.Equal(t, want[2], message)
		}
		found := run("block")
		require.Len(t, found, 4, "both instances")
		require.Equal(t, "RUNNING", found[1]["outcome"], "the new one goes on")
		require.Equal(t, "STOPPED", found[3]["outcome"])
		require.Equal(t, "INFO", found[3]["level"])
		require.Less(t, found[0]["epoch"], found[3]["epoch"])
	})
}

// Without options the lines have levels that a production's logger shows.
func TestLoggingByDefault(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		registry := redtask.NewRegistry()
		registry.Register("test/fail", redtask.Func(func(context.Context, any) error { return redtask.Failf("no milk") }))
		log := &lines{}
		e.within(t, registry, slog.New(slog.NewJSONHandler(log, nil)), builtin.Logging(builtin.LoggingOptions{}))
		id := e.start(t, "test/fail", redtask.StartOptions{})
		e.wait(t, id)
		found := log.of(t, id)
		require.Len(t, found, 2)
		require.Equal(t, "INFO", found[0]["level"])
		require.Equal(t, "WARN", found[1]["level"])
	})
}

// timed is a task that notes how it is told that its time is over; it ends then.
type timed struct {
	causes    chan error
	deadlines chan time.Time
}

func (s *timed) Init(ctx context.Context, data json.RawMessage) error {
	if at, ok := ctx.Deadline(); ok {
		s.deadlines <- at
	}
	if string(data) != `"init"` {
		return nil
	}
	<-ctx.Done()
	s.causes <- context.Cause(ctx)
	return ctx.Err()
}

func (s *timed) Start(ctx context.Context) error {
	<-ctx.Done()
	s.causes <- context.Cause(ctx)
	return ctx.Err()
}

// stoppable has a Stop that makes Start return.
type stoppable struct {
	timed
	quit chan struct{}
}

func (s *stoppable) Start(ctx context.Context) error {
	<-s.quit
	s.causes <- ctx.Err()
	return nil
}

func (s *stoppable) Stop(context.Context) error {
	close(s.quit)
	return nil
}

// A timeout tells the task as that of a registration does: a Stopper by Stop, others by their ctx; the end is EXCEPTION.
func TestTimeout(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		base := timed{causes: make(chan error, 10), deadlines: make(chan time.Time, 10)}
		seen := make(chan error, 10)
		registry := redtask.NewRegistry()
		registry.Register("test/plain", func() redtask.Task { task := base; return &task })
		registry.Register("test/stopper", func() redtask.Task { return &stoppable{timed: base, quit: make(chan struct{})} })
		e.within(t, registry, quiet, func(next redtask.Handler) redtask.Handler {
			return func(ctx context.Context, task redtask.Task) error {
				err := next(ctx, task)
				seen <- err
				return err
			}
		}, builtin.Timeout(time.Hour), builtin.Timeout(200*time.Millisecond), builtin.Timeout(time.Hour))
		run := func(task, data string) {
			t.Helper()
			begun := time.Now()
			id, err := e.client.Start(deadline(t), task, data)
			require.NoError(t, err)
			record := e.wait(t, id)
			require.Equal(t, redtask.StateException, record.State)
			require.Equal(t, "redtask: the task ran longer than its timeout of 200ms", record.Error)
			require.WithinRange(t, receive(t, base.deadlines), begun, time.Now(), "the shortest is seen")
		}
		run("test/plain", "")
		cause := receive(t, base.causes)
		require.ErrorIs(t, cause, redtask.ErrTimedOut)
		require.ErrorIs(t, cause, context.DeadlineExceeded)
		require.ErrorIs(t, receive(t, seen), context.Canceled)

		run("test/plain", "init")
		require.ErrorIs(t, receive(t, base.causes), redtask.ErrTimedOut)
		require.ErrorIs(t, receive(t, seen), context.Canceled)

		run("test/stopper", "")
		require.NoError(t, receive(t, base.causes), "its ctx is not cancelled before Stop has had its time")
		require.NoError(t, receive(t, seen))
	})
}

// A timeout is called off when what is inside has returned: a later one of the middleware around it is the one that is over.
func TestTimeoutIsCalledOff(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		registry := redtask.NewRegistry()
		registry.Register("test/quick", redtask.Func(func(context.Context, any) error { return nil }))
		e.within(t, registry, quiet, func(next redtask.Handler) redtask.Handler {
			return func(ctx context.Context, task redtask.Task) error {
				if err := next(ctx, task); err != nil {
					return err
				}
				defer redtask.FromContext(ctx).TimeoutAfter(2 * time.Second)()
				<-ctx.Done()
				return ctx.Err()
			}
		}, builtin.Timeout(time.Second))
		record := e.wait(t, e.start(t, "test/quick", redtask.StartOptions{}))
		require.Equal(t, "redtask: the task ran longer than its timeout of 2s", record.Error)
	})
}

func TestTimeoutRefused(t *testing.T) {
	t.Parallel()
	for _, d := range []time.Duration{0, -time.Second} {
		func() {
			defer func() {
				err, _ := recover().(error)
				require.ErrorIs(t, err, redtask.ErrInvalid)
				require.ErrorContains(t, err, "builtin.Timeout("+d.String()+")")
			}()
			builtin.Timeout(d)
		}()
	}
}
