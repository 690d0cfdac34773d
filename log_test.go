package redtask

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/slogtest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask/internal/redistest"
	"github.com/redtask/redtask/internal/store"
)

func messages(lines []LogLine) []string {
	texts := make([]string, len(lines))
	for i, line := range lines {
		texts[i] = line.Message
	}
	return texts
}

func readLog(t testing.TB, client *Client, id string) []LogLine {
	t.Helper()
	lines, err := client.Log(testContext(t), id)
	require.NoError(t, err)
	return lines
}

// withLog registers a task that keeps so many lines.
func withLog(keep int, work func(ctx context.Context, data json.RawMessage) error) *Registry {
	registry := NewRegistry()
	registry.RegisterWith("test/log", Func(work), TaskOptions{LogLines: keep})
	return registry
}

func TestLog(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		registry := withLog(100, func(ctx context.Context, _ json.RawMessage) error {
			log := FromContext(ctx).Logger()
			log.Debug("not shown")
			log.Info("began")
			log.With("file", "a.csv").WithGroup("row").Warn("odd", "number", 7, slog.Group("cell", "at", "B2"), "err", io.EOF)
			return nil
		})
		runner := e.runner(t, registry, nil)
		id := start(t, runner.Client(), "test/log", nil)
		record := wait(t, runner.Client(), id)
		lines := readLog(t, runner.Client(), id)
		require.Len(t, lines, 2)
		for _, line := range lines {
			require.Equal(t, record.Epoch, line.Epoch)
			require.Equal(t, 1, line.Attempt)
			require.WithinRange(t, line.Time, record.StartedAt.Add(-time.Second), record.EndedAt.Add(time.Second))
		}
		require.Equal(t, "began", lines[0].Message)
		require.Equal(t, slog.LevelInfo, lines[0].Level)
		require.Nil(t, lines[0].Attrs)
		require.Equal(t, slog.LevelWarn, lines[1].Level)
		require.JSONEq(t, `{"file":"a.csv","row":{"number":7,"cell":{"at":"B2"},"err":"EOF"}}`, string(lines[1].Attrs))
		require.EqualValues(t, 2, record.Logged)

		raw := e.rdb.LIndex(t.Context(), e.key("log:"+id), 0).Val()
		require.JSONEq(t, fmt.Sprintf(`{"time":%d,"level":"INFO","msg":"began","epoch":%d,"attempt":1}`, lines[0].Time.UnixMilli(), record.Epoch), raw)
		require.True(t, e.log.has("msg=began") && e.log.has("number=7"), "the runner's logger has them as well")
		require.True(t, e.log.has(`msg="not shown"`), "with its own level")
	})
}

// What a task logged before its end is there when the final event is.
func TestLogIsThereAtTheEnd(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		registry := withLog(MaxLogLines, func(ctx context.Context, _ json.RawMessage) error {
			for i := range 3000 { // more than a batch takes
				FromContext(ctx).Logger().Info("line", "n", i)
			}
			return nil
		})
		runner := e.runner(t, registry, func(o *RunnerOptions) { o.Logger = slog.New(slog.DiscardHandler) })
		client := runner.Client()
		events, err := client.Watch(testContext(t), "own")
		require.NoError(t, err)
		_, err = client.StartWith(testContext(t), "test/log", nil, StartOptions{ID: "own"})
		require.NoError(t, err)
		for event := range events {
			if event.Name == EventEnded {
				require.Len(t, readLog(t, client, "own"), 3000)
			}
		}
		lines := readLog(t, client, "own")
		for i, line := range lines {
			require.JSONEq(t, fmt.Sprintf(`{"n":%d}`, i), string(line.Attrs), "in order")
		}
	})
}

// An exception and its panic are in the log: who looks there need not look elsewhere.
func TestLogHasTheException(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		registry := withLog(100, func(context.Context, json.RawMessage) error { return errSurprise })
		runner := e.runner(t, registry, nil)
		id := start(t, runner.Client(), "test/log", nil)
		wait(t, runner.Client(), id)
		require.Equal(t, []string{"task ended in EXCEPTION"}, messages(readLog(t, runner.Client(), id)))
	})
}

func TestLogCap(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		const keep, written = 5, 2000
		registry := withLog(keep, func(ctx context.Context, _ json.RawMessage) error {
			for i := range written {
				FromContext(ctx).Logger().Info(fmt.Sprint(i))
			}
			return nil
		})
		runner := e.runner(t, registry, func(o *RunnerOptions) { o.Logger = slog.New(slog.DiscardHandler) })
		id := start(t, runner.Client(), "test/log", nil)
		record := wait(t, runner.Client(), id)
		require.Equal(t, []string{"1995", "1996", "1997", "1998", "1999"}, messages(readLog(t, runner.Client(), id)))
		require.EqualValues(t, written, record.Logged)
	})
}

// Two runs of a task on two runners, one after the other: the log has the lines of both, in order.
func TestLogOfTwoRunners(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		running := make(chan *Run, 10)
		registry := withLog(100, func(ctx context.Context, _ json.RawMessage) error {
			run := FromContext(ctx)
			run.Logger().Info("begins")
			running <- run
			<-ctx.Done()
			run.Logger().Info("leaves", "why", context.Cause(ctx))
			return ctx.Err()
		})
		first := e.runner(t, registry, nil)
		client := e.client(t)
		id := start(t, client, "test/log", nil)
		receive(t, "first run", running)
		require.NoError(t, shutdown(t, first))
		e.runner(t, registry, nil)
		receive(t, "second run", running)
		require.NoError(t, client.Stop(testContext(t), id))
		record := wait(t, client, id)
		lines := readLog(t, client, id)
		require.Equal(t, []string{"begins", "leaves", "begins", "leaves"}, messages(lines))
		require.Less(t, lines[1].Epoch, lines[2].Epoch)
		require.Equal(t, record.Epoch, lines[3].Epoch)
		require.EqualValues(t, 4, record.Logged)
	})
}

// A run that lost its task to another one adds nothing to its log, although it goes on logging.
func TestLogOfALostRun(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		running, gate, over := make(chan *Run, 10), newGate(t), make(chan struct{}, 10)
		registry := withLog(100, func(ctx context.Context, _ json.RawMessage) error {
			run := FromContext(ctx)
			run.Logger().Info("mine", "epoch", run.Epoch())
			running <- run
			gate.wait()
			run.Logger().Info("late")
			over <- struct{}{}
			return nil
		})
		runner := e.runner(t, registry, func(o *RunnerOptions) { o.Locals = []Local{} })
		client := e.client(t)
		id := start(t, client, "test/log", nil)
		first := receive(t, "runs", running)
		eventually(t, "its line is there", func() bool { return len(readLog(t, client, id)) == 1 })
		_, err := e.rdb.TxPipelined(t.Context(), func(p redis.Pipeliner) error {
			p.SRem(t.Context(), e.key("running:"+runner.ID()), first.member)
			p.SAdd(t.Context(), e.key("running:other"), "1000:"+id)
			p.HSet(t.Context(), e.key("task:"+id), "epoch", 1000, "runner", "other")
			return nil
		})
		require.NoError(t, err)
		gate.open()
		receive(t, "it has logged", over)
		eventually(t, "its end is refused", func() bool { return e.log.has("the end of this run was not written") })
		first.Logger().Info("later still")
		require.Equal(t, []string{"mine"}, messages(readLog(t, client, id)))
		require.True(t, e.log.has("msg=late") && e.log.has(`msg="later still"`), "the runner's log has it")
	})
}

// Lost answers add no line twice, and lose none.
func TestLogWithLostReplies(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		const tasks, written = 20, 40
		registry := withLog(1000, func(ctx context.Context, _ json.RawMessage) error {
			for i := range written {
				FromContext(ctx).Logger().Info(fmt.Sprint(i))
				if i%4 == 0 { // a round trip
					if err := FromContext(ctx).Checkpoint(ctx, i); err != nil {
						return err
					}
				}
			}
			return nil
		})
		e.rdb.AddHook(&lossy{every: 3})
		e.runner(t, registry, nil)
		client := e.client(t)
		want := make([]string, written)
		for i := range want {
			want[i] = fmt.Sprint(i)
		}
		ids := make([]string, tasks)
		for i := range ids {
			ids[i] = fmt.Sprint("own", i)
			for !exists(e, ids[i]) {
				_, _ = client.StartWith(testContext(t), "test/log", nil, StartOptions{ID: ids[i]}) // its answer may be lost
			}
		}
		for _, id := range ids {
			require.Equal(t, "ENDED", waitPlain(t, e, id)["state"])
			require.Equal(t, want, messages(readLog(t, client, id)))
		}
		require.False(t, e.log.has("could not write the task's record"), "nothing is said again after the end")
	})
}

// A batch of which nobody knows whether it was applied, because the lease was lost meanwhile, is said again: its lines are there once.
func TestLogOfAnUncertainBatch(t *testing.T) {
	for _, applied := range []bool{true, false} {
		t.Run(fmt.Sprint("applied ", applied), func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				running := make(chan *Run, 10)
				registry := withLog(100, func(ctx context.Context, _ json.RawMessage) error {
					if err := FromContext(ctx).Checkpoint(ctx, 1); err != nil { // then nothing else is queued
						return err
					}
					running <- FromContext(ctx)
					<-ctx.Done()
					return ctx.Err()
				})
				runner := e.runner(t, registry, func(o *RunnerOptions) { o.Locals = []Local{} })
				client := e.client(t)
				id := start(t, client, "test/log", nil)
				run := receive(t, "runs", running)
				c := runner.engines["default"].committer
				items := make(chan []item, 1)
				c.do(func(ctx context.Context) { // what a batch would do whose answer is lost
					run.Logger().Info("once")
					c.mu.Lock()
					batch := &store.Batch{}
					said := c.items
					c.items = nil
					for i := range said {
						said[i].fields, _, _ = run.log.take(maxLogItemLines)
						said[i].addTo(batch)
					}
					batch.Number = c.number + 1
					c.number++
					c.before = c.number // as if the runner had registered since
					c.mu.Unlock()
					if applied {
						result, err := runner.engines["default"].queue.Commit(ctx, runner.ID(), batch)
						require.NoError(t, err)
						require.Equal(t, store.Applied, result.Outcome)
					}
					c.settleReplayed(ctx, said, batch)
					items <- said
				})
				require.Len(t, receive(t, "said", items), 1)
				eventually(t, "it is there", func() bool { return len(readLog(t, client, id)) > 0 })
				run.Logger().Info("after")
				require.NoError(t, client.Stop(testContext(t), id))
				record := wait(t, client, id)
				require.Equal(t, []string{"once", "after"}, messages(readLog(t, client, id)))
				require.EqualValues(t, 2, record.Logged)
			})
		})
	}
}

// A reload's new instance logs in Init: its lines come when it takes over, and not at all if it does not.
func TestLogOfAReload(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		running := make(chan string, 10)
		registry := NewRegistry()
		registry.RegisterWith("test/log", func() Task {
			data := ""
			return (&script{
				init: func(ctx context.Context, raw json.RawMessage) error {
					if err := json.Unmarshal(raw, &data); err != nil {
						return err
					}
					FromContext(ctx).Logger().Info("init " + data)
					if data == "bad" {
						return errSurprise
					}
					return nil
				},
				start: func(ctx context.Context) error {
					if data != "silent" {
						FromContext(ctx).Logger().Info("start " + data)
					}
					running <- data
					<-ctx.Done()
					FromContext(ctx).Logger().Info("end " + data)
					return ctx.Err()
				},
			}).task()
		}, TaskOptions{LogLines: 100})
		runner := e.runner(t, registry, nil)
		client := runner.Client()
		id := start(t, client, "test/log", "one")
		require.Equal(t, "one", receive(t, "runs", running))
		require.NoError(t, client.ReloadWith(testContext(t), id, "bad"))
		eventually(t, "the reload has failed", func() bool { return e.log.has("reload failed") })
		require.NoError(t, client.ReloadWith(testContext(t), id, "two"))
		require.Equal(t, "two", receive(t, "runs", running))
		require.NoError(t, client.ReloadWith(testContext(t), id, "silent"))
		require.Equal(t, "silent", receive(t, "runs", running))
		eventually(t, "what it said in Init is there, although it says nothing now", func() bool {
			return slices.Contains(messages(readLog(t, client, id)), "init silent")
		})
		require.NoError(t, client.Stop(testContext(t), id))
		wait(t, client, id)
		require.Equal(t, []string{
			"init one", "start one", "reload failed; the task goes on with its old data", "end one", "init two", "start two", "end two", "init silent",
			"end silent",
		}, messages(readLog(t, client, id)))
	})
}

func TestLogOfALocalTask(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		logged := make(chan *Run, 1)
		registry := withLog(100, func(ctx context.Context, _ json.RawMessage) error {
			run := FromContext(ctx)
			run.Logger().Info("hello")
			if err := run.Checkpoint(ctx, 1); err != nil {
				return err
			}
			logged <- run
			<-ctx.Done()
			return ctx.Err()
		})
		runner := e.runner(t, registry, nil)
		id, err := runner.StartLocal(testContext(t), "default", "test/log", nil)
		require.NoError(t, err)
		receive(t, "it has logged", logged)
		require.Zero(t, e.rdb.Exists(t.Context(), e.key("log:"+id)).Val())
		require.NoError(t, runner.Client().Stop(testContext(t), id))
	})
}

// A key that is in the way is told to the operator once for each batch, not to the log that cannot be written: that would never end.
func TestLogThatCannotBeWritten(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		gate := newGate(t)
		registry := withLog(100, func(ctx context.Context, _ json.RawMessage) error {
			gate.wait()
			FromContext(ctx).Logger().Info("hello")
			return FromContext(ctx).Checkpoint(ctx, 1)
		})
		runner := e.runner(t, registry, nil)
		id := start(t, runner.Client(), "test/log", nil)
		e.rdb.Set(t.Context(), e.key("log:"+id), "spoilt", 0)
		gate.open()
		require.Equal(t, StateEnded, wait(t, runner.Client(), id).State)
		require.Equal(t, 1, strings.Count(e.log.String(), "could not write the task's record"))
		_, err := runner.Client().Log(testContext(t), id)
		require.ErrorIs(t, err, ErrWrongType)
	})
}

// While Redis is away a task logs on, and memory is bounded: the last lines come when it is back.
func TestLogWhileRedisIsAway(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	e := newEnv(t, server.Addr, nil)
	running := make(chan *Run, 1)
	registry := withLog(3, func(ctx context.Context, _ json.RawMessage) error {
		running <- FromContext(ctx)
		<-ctx.Done()
		return ctx.Err()
	})
	runner := e.runner(t, registry, func(o *RunnerOptions) { o.Lease, o.Logger = time.Minute, slog.New(slog.DiscardHandler) })
	id := start(t, e.client(t), "test/log", nil)
	run := receive(t, "runs", running)
	server.Kill()
	c := runner.engines["default"].committer
	run.Logger().Info("first")
	eventually(t, "known to be away", func() bool { return !c.healthy.Load() })
	for i := range 10_000 {
		run.Logger().Info(fmt.Sprint(i))
	}
	kept, queued := func() (int, int) {
		c.mu.Lock()
		defer c.mu.Unlock()
		run.log.mu.Lock()
		defer run.log.mu.Unlock()
		of := slices.DeleteFunc(slices.Clone(c.items), func(i item) bool { return i.run != run })
		return len(run.log.lines), len(of)
	}()
	require.Equal(t, 3, kept)
	require.Less(t, queued, 3)
	server.Restart(t)
	eventually(t, "redis is back", func() bool { return c.healthy.Load() })
	require.NoError(t, e.client(t).Stop(testContext(t), id))
	record := wait(t, e.client(t), id)
	require.Equal(t, []string{"9997", "9998", "9999"}, messages(readLog(t, e.client(t), id)))
	require.EqualValues(t, 10_001, record.Logged, "those that were lost are counted")
}

// Many goroutines of many tasks log at once, some of them beyond the end.
func TestLogStress(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		const tasks, goroutines, written = 4, 8, 50
		var beyond sync.WaitGroup
		registry := withLog(MaxLogLines, func(ctx context.Context, _ json.RawMessage) error {
			log := FromContext(ctx).Logger()
			beyond.Go(func() {
				for n := range 10 * written {
					log.Debug("beyond", "n", n)
					log.With("n", n).WithGroup("g").Error("beyond")
				}
			})
			var writers sync.WaitGroup
			for g := range goroutines {
				writers.Go(func() {
					for n := range written {
						log.Info("line", "by", g, "n", n)
					}
				})
			}
			writers.Wait()
			return nil
		})
		runner := e.runner(t, registry, func(o *RunnerOptions) { o.Logger = slog.New(slog.DiscardHandler) })
		client := runner.Client()
		ids, err := client.StartMany(testContext(t), slices.Repeat([]StartRequest{{Task: "test/log"}}, tasks))
		require.NoError(t, err)
		for _, id := range ids {
			require.Equal(t, StateEnded, wait(t, client, id).State)
		}
		beyond.Wait()
		for _, id := range ids {
			requireAllLines(t, readLog(t, client, id), goroutines, written)
			record, err := client.Get(testContext(t), id)
			require.NoError(t, err)
			require.GreaterOrEqual(t, record.Logged, e.rdb.LLen(t.Context(), e.key("log:"+id)).Val())
		}
	})
}

// requireAllLines: each goroutine's lines are there once, in order.
func requireAllLines(t *testing.T, lines []LogLine, goroutines, written int) {
	t.Helper()
	next := make([]int, goroutines)
	for _, line := range lines {
		if line.Message != "line" {
			continue
		}
		var of struct{ By, N int }
		require.NoError(t, json.Unmarshal(line.Attrs, &of))
		require.Equal(t, next[of.By], of.N)
		next[of.By]++
	}
	require.Equal(t, slices.Repeat([]int{written}, goroutines), next)
}

// A run that logs without end holds up no other.
func TestLogWithoutEnd(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		var logging atomic.Int64
		registry := withLog(100, func(ctx context.Context, _ json.RawMessage) error {
			for ctx.Err() == nil {
				FromContext(ctx).Logger().Info("and on")
				logging.Add(1)
			}
			return ctx.Err()
		})
		registry.Register("test/quick", Func(func(context.Context, any) error { return nil }))
		runner := e.runner(t, registry, func(o *RunnerOptions) { o.Logger = slog.New(slog.DiscardHandler) })
		client := runner.Client()
		id := start(t, client, "test/log", nil)
		eventually(t, "it logs", func() bool { return logging.Load() > 1000 })
		for range 20 {
			require.Equal(t, StateEnded, wait(t, client, start(t, client, "test/quick", nil)).State)
		}
		require.NoError(t, client.Stop(testContext(t), id))
		require.Equal(t, StateStopped, wait(t, client, id).State)
		require.Len(t, readLog(t, client, id), 100)
	})
}

// A Logger that is used after the end neither panics nor writes, nor fills memory.
func TestLogAfterTheEnd(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		runs := make(chan *Run, 1)
		runner := e.runner(t, withLog(100, func(ctx context.Context, _ json.RawMessage) error {
			FromContext(ctx).Logger().Info("in time")
			runs <- FromContext(ctx)
			return nil
		}), nil)
		id := start(t, runner.Client(), "test/log", nil)
		wait(t, runner.Client(), id)
		run := receive(t, "it ran", runs)
		run.Logger().Info("late")
		run.Logger().With("a", 1).Info("later")
		require.Empty(t, run.log.lines)
		require.Equal(t, []string{"in time"}, messages(readLog(t, runner.Client(), id)))
		require.True(t, e.log.has("msg=late") && e.log.has("msg=later"), "the runner's log has it")
	})
}

// What a batch had no room for: of a run that goes on it stands behind the others, of one that has ended before them.
func TestLogLeftByABatch(t *testing.T) {
	t.Parallel()
	for _, ended := range []bool{false, true} {
		run := &Run{engine: &engine{}}
		run.log = newRunLog(run, &TaskOptions{LogLines: MaxLogLines})
		for range maxLogItemLines + 10 {
			run.log.add("line")
		}
		run.log.closed = ended
		var taken linesTaken
		first := item{op: opLog, run: run}
		taken.take(&first)
		require.Len(t, first.fields, 2+maxLogItemLines)
		require.True(t, taken.full())
		others := []item{{op: opEmit}, {op: opEmit}}
		left := taken.putBack(others)
		require.Len(t, left, 3)
		require.Equal(t, ended, left[0].op == opLog)
		require.Equal(t, !ended, left[2].op == opLog)
		var next linesTaken
		next.take(&item{op: opLog, run: run})
		require.Equal(t, 10, next.lines)
		require.False(t, next.full())
		require.Len(t, next.putBack(others), 2, "nothing is left")
	}
}

// linesOf is a log whose lines nobody sends.
func linesOf(t testing.TB, level slog.Leveler) (*runLog, slog.Handler) {
	t.Helper()
	run := &Run{engine: &engine{}}
	l := newRunLog(run, &TaskOptions{LogLines: 100, LogLevel: level})
	return l, logHandler{l.json, run.engine}
}

// The handler does what slog asks of handlers: groups, attributes, empty ones, LogValuer and more.
func TestLogHandler(t *testing.T) {
	t.Parallel()
	var l *runLog
	slogtest.Run(t, func(t *testing.T) slog.Handler {
		var handler slog.Handler
		l, handler = linesOf(t, nil)
		return handler
	}, func(t *testing.T) map[string]any {
		require.Len(t, l.lines, 1)
		var line map[string]any
		require.NoError(t, json.Unmarshal([]byte(l.lines[0]), &line))
		return line
	})
}

func TestLogLevel(t *testing.T) {
	t.Parallel()
	level := &slog.LevelVar{}
	l, handler := linesOf(t, level)
	log := slog.New(handler)
	log.Debug("1")
	log.Info("2")
	level.Set(slog.LevelDebug)
	log.Debug("3")
	level.Set(slog.LevelError)
	log.Warn("4")
	require.Len(t, l.lines, 2)
	require.Equal(t, "2", parseLogLine(l.lines[0]).Message)
	require.Equal(t, "3", parseLogLine(l.lines[1]).Message)
}

// Times are those of Redis' clock.
func TestLogTime(t *testing.T) {
	t.Parallel()
	l, handler := linesOf(t, nil)
	l.run.engine.clockOffset.Store(time.Hour.Milliseconds())
	before := time.Now()
	slog.New(handler).Info("x")
	line := parseLogLine(l.lines[0])
	require.WithinRange(t, line.Time, before.Add(time.Hour-time.Millisecond), time.Now().Add(time.Hour))
}

// A long line is cut, says so, and is JSON with its head still.
func TestLogLongLines(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		message string
		attrs   []any
		cut     bool
		has     string
	}{
		"short":              {"hello", []any{"a", 1}, false, `{"a":1}`},
		"at the bound":       {strings.Repeat("x", maxLogLine-200), nil, false, ""},
		"a long message":     {strings.Repeat("x", 3*maxLogLine), []any{"a", 1}, true, `{"a":1,"cut":true}`},
		"what is escaped":    {strings.Repeat("\x01", maxLogLine), []any{"a", 1}, true, `{"a":1,"cut":true}`},
		"a long group":       {"hello", []any{slog.Group("a", "text", strings.Repeat("x", 3*maxLogLine)), "b", 2}, true, `{"b":2,"cut":true}`},
		"many attributes":    {"hello", manyAttrs(10_000), true, ""},
		"characters in half": {strings.Repeat("ü", maxLogLine), nil, true, `{"cut":true}`},
	}
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, handler := linesOf(t, nil)
			slog.New(handler.WithAttrs([]slog.Attr{slog.Int("epoch", 1<<40), slog.Int("attempt", 1000)})).Warn(test.message, test.attrs...)
			require.Len(t, l.lines, 1)
			require.LessOrEqual(t, len(l.lines[0]), maxLogLine)
			line := parseLogLine(l.lines[0])
			require.Equal(t, slog.LevelWarn, line.Level)
			require.EqualValues(t, 1<<40, line.Epoch)
			require.Equal(t, 1000, line.Attempt)
			require.WithinDuration(t, time.Now(), line.Time, time.Minute)
			require.Equal(t, test.cut, strings.Contains(string(line.Attrs), `"cut":true`))
			require.True(t, strings.HasPrefix(test.message, strings.TrimSuffix(line.Message, "… (cut)")), line.Message)
			require.NotEmpty(t, strings.TrimSuffix(line.Message, "… (cut)"))
			if test.has != "" {
				require.JSONEq(t, test.has, string(line.Attrs))
			}
		})
	}
}

func manyAttrs(n int) []any {
	attrs := make([]any, 0, n)
	for i := range n / 2 {
		attrs = append(attrs, fmt.Sprint("a", i), i)
	}
	return attrs
}

// Many long lines are bounded by their bytes, too.
func TestLogBytes(t *testing.T) {
	t.Parallel()
	run := &Run{engine: &engine{}}
	l := newRunLog(run, &TaskOptions{LogLines: MaxLogLines})
	log := slog.New(l.json)
	for range 1000 {
		log.Info(strings.Repeat("x", 4<<10))
	}
	size := 0
	for _, line := range l.lines {
		size += len(line)
	}
	require.Equal(t, size, l.bytes)
	require.LessOrEqual(t, size, maxLogBytes)
	require.Greater(t, size, maxLogBytes-maxLogLine)
	require.Equal(t, 1001, l.first+len(l.lines), "the number of the next")
}

func TestParseLogLine(t *testing.T) {
	t.Parallel()
	at := time.UnixMilli(1790000000000)
	cases := map[string]LogLine{
		`{"time":1790000000000,"level":"INFO","msg":"hi","epoch":7,"attempt":2}`: {Time: at, Message: "hi", Epoch: 7, Attempt: 2},
		`{"level":"WARN+1","msg":"hi","a":1,"b":{"c":null}}`:                     {Level: 5, Message: "hi", Attrs: json.RawMessage(`{"a":1,"b":{"c":null}}`)},
		`{"msg":"hi","msg":"there"}`:                                             {Message: "hi", Attrs: json.RawMessage(`{"msg":"there"}`)},
		`{"time":"noon","msg":7}`:                                                {Attrs: json.RawMessage(`{"time":"noon","msg":7}`)},
		`{}`:                                                                     {},
		`{"msg":`:                                                                {Message: `{"msg":`},
		`hello`:                                                                  {Message: "hello"},
		`"hello"`:                                                                {Message: `"hello"`},
		``:                                                                       {},
		"{\"a\xff\":1}":                                                          {Attrs: json.RawMessage("{\"a\ufffd\":1}")},
	}
	for text, want := range cases {
		require.Equal(t, want, parseLogLine(text), text)
	}
}

func FuzzParseLogLine(f *testing.F) {
	f.Add(`{"time":1790000000000,"level":"INFO","msg":"hi","epoch":7,"attempt":2,"a":{"b":1}}`)
	f.Add(`{"time":{"a":1}`)
	f.Fuzz(func(t *testing.T, text string) {
		line := parseLogLine(text)
		if line.Attrs != nil && !json.Valid(line.Attrs) {
			t.Fatalf("%q: %q", text, line.Attrs)
		}
		_ = line.String()
	})
}

func TestLogLineString(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 26, 12, 0, 0, 5e6, time.UTC)
	require.Equal(t, "12:00:00.005 WARN odd", LogLine{Time: at, Level: slog.LevelWarn, Message: "odd"}.String())
	require.Equal(t, `12:00:00.005 INFO odd {"a":1}`, LogLine{Time: at, Message: "odd", Attrs: json.RawMessage(`{"a":1}`)}.String())
}

func TestLogOptions(t *testing.T) {
	t.Parallel()
	for lines, ok := range map[int]bool{0: true, 1: true, MaxLogLines: true, -1: false, MaxLogLines + 1: false} {
		err := NewRegistry().register("test/log", Func(func(context.Context, any) error { return nil }), TaskOptions{LogLines: lines, Timeout: -1})
		require.ErrorIs(t, err, ErrInvalid)
		require.ErrorContains(t, err, "Timeout", "all faults at once")
		require.Equal(t, ok, !strings.Contains(err.Error(), "LogLines"), err)
	}
}

func TestLogRefusals(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		client := e.client(t)
		_, err := client.Log(testContext(t), "nobody")
		require.ErrorIs(t, err, ErrNotFound)
		_, err = client.Log(testContext(t), "")
		require.ErrorIs(t, err, ErrInvalid)
		_, err = client.ForQueue("{").Log(testContext(t), "x")
		require.ErrorIs(t, err, ErrInvalid)
		id := start(t, client, "test/log", nil)
		require.Empty(t, readLog(t, client, id))
	})
}
