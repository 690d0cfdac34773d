package redtask

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask/internal/cron"
	"github.com/redtask/redtask/internal/store"
)

// onlyCron is a runner whose schedule is looked at when it is told, or something is due: no poll helps.
func onlyCron(o *RunnerOptions) {
	longLease(o)
	logger := o.Logger
	o.Locals = []Local{{Name: cron.Name, New: func() Task { return cron.New(cron.Options{Interval: time.Hour, Logger: logger}) }}}
}

// ticks registers a task that tells of each run.
func ticks(b *blocker, ran chan *Run) *Registry {
	registry := blockRegistry(b)
	registry.Register("test/tick", Func(func(ctx context.Context, _ json.RawMessage) error {
		ran <- FromContext(ctx)
		return nil
	}))
	return registry
}

// due makes an entry due at a time that has passed.
func (e *env) due(t *testing.T, name string, ago time.Duration) time.Time {
	t.Helper()
	at := time.Now().Add(-ago).Truncate(time.Second)
	e.do(t, "ZADD", e.key("cron"), at.UnixMilli(), name)
	e.do(t, "PUBLISH", e.key("control:"), "due 1")
	return at
}

func firingID(name string, at time.Time) string {
	return name + "@" + at.UTC().Format("2006-01-02T15:04:05.000Z")
}

// Several runners see each time of an entry, and one task is started for it; each wakes by itself.
func TestCronFiresOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		ran := make(chan *Run, 1000)
		for range 3 {
			e.runner(t, ticks(newBlocker(), ran), onlyCron)
		}
		client := e.client(t)
		require.NoError(t, client.Cron().Add(testContext(t), CronEntry{Name: "tick", Schedule: "@every 1s", Task: "test/tick", Data: 7}))
		entry, err := client.Cron().Get(testContext(t), "tick")
		require.NoError(t, err)
		require.False(t, entry.NextAt.IsZero())
		require.True(t, entry.LastAt.IsZero())
		seen := map[string]bool{}
		at := entry.NextAt
		for range 3 {
			run := receive(t, "a run", ran)
			require.Equal(t, firingID("tick", at), run.ID(), "each second, once")
			require.False(t, seen[run.ID()])
			require.Equal(t, "7", string(run.data))
			seen[run.ID()] = true
			at = at.Add(time.Second)
		}
		entry, err = client.Cron().Get(testContext(t), "tick")
		require.NoError(t, err)
		require.True(t, seen[entry.LastID])
		require.Equal(t, time.Second, entry.NextAt.Sub(entry.LastAt), "it keeps its beat")
	})
}

// Many who saw the same time let it fire at once; also one whose answer was lost and who asks again.
func TestCronRace(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		queue := store.New(e.rdb, e.prefix).Queue(DefaultQueue)
		require.NoError(t, e.client(t).Cron().Add(testContext(t), CronEntry{Name: "n", Schedule: "@hourly", Task: "test/tick"}))
		at := e.due(t, "n", 0)
		firing := func() *store.Firing {
			return &store.Firing{Name: "n", Due: at.UnixMilli(), Next: at.Add(time.Hour).UnixMilli(), Overlap: "skip", Schedule: "@hourly",
				Task: &store.NewTask{ID: firingID("n", at), Task: "test/tick", Data: "null", Spec: "{}"}}
		}
		outcomes := make(chan string, 100)
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				outcome, err := queue.Fire(context.Background(), firing())
				if err != nil {
					outcome = err.Error()
				}
				outcomes <- outcome
			})
		}
		all.Wait()
		counts := map[string]int{}
		for range 20 {
			counts[<-outcomes]++
		}
		require.Equal(t, map[string]int{"started": 1, "other": 19}, counts)
		// A failover has forgotten that it fired, but not the task: its ID is the time's.
		e.do(t, "ZADD", e.key("cron"), at.UnixMilli(), "n")
		outcome, err := queue.Fire(testContext(t), firing())
		require.NoError(t, err)
		require.Equal(t, "exists", outcome)
		require.EqualValues(t, 1, e.rdb.LLen(testContext(t), e.key("wait")).Val())
		require.InDelta(t, at.Add(time.Hour).UnixMilli(), e.rdb.ZScore(testContext(t), e.key("cron"), "n").Val(), 0)
	})
}

func TestCronMissed(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		client, ctx := e.client(t), testContext(t)
		due := map[Missed]time.Time{}
		for _, missed := range []Missed{MissedOnce, MissedSkip, MissedAll} {
			name := string(missed)
			require.NoError(t, client.Cron().Add(ctx, CronEntry{Name: name, Schedule: "@every 1h", Task: "test/tick", Missed: missed, Overlap: OverlapAllow}))
			due[missed] = e.due(t, name, 3*time.Hour+time.Minute+time.Second)
		}
		ran := make(chan *Run, 1000)
		e.runner(t, ticks(newBlocker(), ran), onlyCron)
		want := []string{firingID("once", due[MissedOnce])}
		for i := range 4 {
			want = append(want, firingID("all", due[MissedAll].Add(time.Duration(i)*time.Hour)))
		}
		var got []string
		for range 5 {
			got = append(got, receive(t, "a run", ran).ID())
		}
		require.ElementsMatch(t, want, got)
		for missed, at := range due {
			eventually(t, "on the beat, as if nothing had been missed", func() bool {
				entry, err := client.Cron().Get(ctx, string(missed))
				return err == nil && entry.NextAt.Equal(at.Add(4*time.Hour))
			})
		}
		require.Empty(t, ran)
	})
}

func TestCronOverlap(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		b := newBlocker()
		client, ctx := e.client(t), testContext(t)
		e.runner(t, blockRegistry(b), onlyCron)
		for _, overlap := range []Overlap{OverlapSkip, OverlapAllow, OverlapReplace} {
			name := string(overlap)
			require.NoError(t, client.Cron().Add(ctx, CronEntry{Name: name, Schedule: "@every 1h", Task: "test/block", Overlap: overlap}))
			first := firingID(name, e.due(t, name, 5*time.Second))
			require.Equal(t, first, receive(t, name, b.running).ID())
			at := e.due(t, name, 2*time.Second)
			second := firingID(name, at)
			eventually(t, "it fired", func() bool {
				entry, err := client.Cron().Get(ctx, name)
				return err == nil && entry.NextAt.Equal(at.Add(time.Hour))
			})
			switch overlap {
			case OverlapSkip:
				_, err := client.Get(ctx, second)
				require.ErrorIs(t, err, ErrNotFound)
				eventually(t, "and says so", func() bool { return e.log.has("outcome=overlap") })
			case OverlapAllow:
				require.Equal(t, second, receive(t, name, b.running).ID())
				require.Empty(t, b.causes)
			case OverlapReplace:
				require.Equal(t, second, receive(t, name, b.running).ID())
				require.Equal(t, StateStopped, wait(t, client, first).State)
			}
		}
	})
}

func TestCronPauseRunRemove(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		ran := make(chan *Run, 1000)
		c, ctx := e.client(t).Cron(), testContext(t)
		e.runner(t, ticks(newBlocker(), ran), onlyCron)
		entry := CronEntry{Name: "nightly", Schedule: "30 2 * * *", Zone: "Europe/Berlin", Task: "test/tick", Options: StartOptions{
			Key: "k", Keep: true, Expiry: time.Hour, Headers: map[string]string{"tenant": "a"}, Priority: PriorityLow, Timeout: time.Minute,
			Retry: &Retry{Attempts: 3, Backoff: Constant(time.Second)},
		}}
		require.NoError(t, c.Add(ctx, entry))
		added, err := c.Get(ctx, "nightly")
		require.NoError(t, err)
		require.Equal(t, entry.Options, added.Options)
		require.Equal(t, MissedOnce, added.Missed)
		require.Equal(t, OverlapSkip, added.Overlap)
		require.NoError(t, c.Pause(ctx, "nightly"))
		require.NoError(t, c.Add(ctx, entry), "a deploy does not resume it")
		paused, err := c.Get(ctx, "nightly")
		require.NoError(t, err)
		require.True(t, paused.Paused)
		require.True(t, paused.NextAt.IsZero())
		id, err := c.Run(ctx, "nightly")
		require.NoError(t, err)
		run := receive(t, "run now", ran)
		require.Equal(t, id, run.ID())
		require.Equal(t, "k", run.Key())
		record := wait(t, e.client(t), id)
		require.True(t, record.Keep)
		require.Equal(t, record.CreatedAt.Add(time.Hour), record.ExpiresAt)
		require.NoError(t, c.Resume(ctx, "nightly"))
		resumed, err := c.Get(ctx, "nightly")
		require.NoError(t, err)
		require.Equal(t, added.NextAt, resumed.NextAt)
		all, err := c.List(ctx)
		require.NoError(t, err)
		require.Equal(t, []*CronRecord{resumed}, all)
		require.NoError(t, c.Remove(ctx, "nightly"))
		require.NoError(t, c.Remove(ctx, "nightly"), "again")
		for _, call := range []func(context.Context, string) error{
			c.Pause, c.Resume, func(ctx context.Context, name string) error { _, err := c.Run(ctx, name); return err },
			func(ctx context.Context, name string) error { _, err := c.Get(ctx, name); return err },
		} {
			require.ErrorIs(t, call(ctx, "nightly"), ErrNotFound)
		}
		all, err = c.List(ctx)
		require.NoError(t, err)
		require.Empty(t, all)
		require.Zero(t, e.rdb.Exists(ctx, e.key("cron"), e.key("cron:nightly")).Val(), "nothing stays")
	})
}

// Entries declared in code are written at each start, and a deploy changes neither their beat nor their pause.
func TestCronDeclared(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		c, ctx := e.client(t).Cron(), testContext(t)
		declare := func(schedule string, data any) *CronRecord {
			runner := e.runner(t, ticks(newBlocker(), make(chan *Run, 10)), func(o *RunnerOptions) {
				onlyCron(o)
				o.Cron = []CronEntry{{Name: "tick", Schedule: schedule, Task: "test/tick", Data: data}}
			})
			var found *CronRecord
			eventually(t, "it is written", func() bool {
				entry, err := c.Get(ctx, "tick")
				found = entry
				want, _ := json.Marshal(data)
				return err == nil && entry.Schedule == schedule && string(entry.Data) == string(want)
			})
			require.NoError(t, shutdown(t, runner))
			return found
		}
		first := declare("@every 1h", 1)
		require.True(t, first.Declared)
		second := declare("@every 1h", 2)
		require.Equal(t, first.NextAt, second.NextAt, "the beat stays")
		third := declare("@every 2h", 2)
		require.True(t, third.NextAt.After(second.NextAt.Add(50*time.Minute)), "another beat")
		require.NoError(t, c.Pause(ctx, "tick"))
		require.True(t, declare("@every 3h", 3).Paused)
	})
}

// With redis-cli alone; what is bad is told, and disturbs nobody.
func TestWireCron(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		ran := make(chan *Run, 1000)
		c, ctx := e.client(t).Cron(), testContext(t)
		e.runner(t, ticks(newBlocker(), ran), onlyCron)
		bad := map[string][]any{
			"no task":     {"schedule", "@hourly"},
			"no schedule": {"task", "test/tick"},
			"bad fields":  {"schedule", "x", "zone", "Mars", "task", "test/tick", "data", "{", "missed", "some", "overlap", "no", "options", "[", "expires_ms", "-1"},
			"never":       {"schedule", "0 0 31 2 *", "task", "test/tick"},
			"all":         {"schedule", "@every 1s", "task", "test/tick", "missed", "all"},
		}
		for name, fields := range bad {
			e.do(t, append([]any{"HSET", e.key("cron:" + name)}, fields...)...)
			e.do(t, "ZADD", e.key("cron"), 0, name)
		}
		e.do(t, "ZADD", e.key("cron"), 0, "no hash")
		e.do(t, "SET", e.key("cron:string"), "x")
		e.do(t, "ZADD", e.key("cron"), 0, "string")
		e.do(t, "HSET", e.key("cron:good"), "schedule", "@every 1s", "task", "test/tick", "data", `"hi"`)
		e.do(t, "ZADD", e.key("cron"), 0, "good")
		e.do(t, "PUBLISH", e.key("control:"), "due 0")
		run := receive(t, "a run", ran)
		require.True(t, strings.HasPrefix(run.ID(), "good@"), "neither at 0, nor late")
		require.Equal(t, `"hi"`, string(run.data))
		for name, want := range map[string]string{"no task": "no task", "no schedule": "schedule", "bad fields": "expires_ms", "never": "never fires", "all": "HSET overlap to allow"} {
			entry, err := c.Get(ctx, name)
			require.NoError(t, err)
			require.Contains(t, entry.Error, want)
			require.True(t, entry.NextAt.IsZero())
		}
		bf, err := c.Get(ctx, "bad fields")
		require.NoError(t, err)
		for _, want := range []string{`zone "Mars"`, "data is not JSON", `missed is "some"`, `overlap is "no"`, "options are no JSON object"} {
			require.Contains(t, bf.Error, want, "all faults at once")
		}
		e.do(t, "HSET", e.key("cron:no task"), "task", "test/tick", "schedule", "@every 1s")
		e.do(t, "ZADD", e.key("cron"), 0, "no task")
		e.do(t, "PUBLISH", e.key("control:"), "due 0")
		eventually(t, "mended", func() bool { return strings.HasPrefix(receive(t, "a run", ran).ID(), "no task@") })
		entry, err := c.Get(ctx, "no task")
		require.NoError(t, err)
		require.Empty(t, entry.Error)
		e.do(t, "HSET", e.key("cron:good"), "schedule", "@every 1h") // it is seen at the latest when it would fire next
		eventually(t, "another beat", func() bool {
			entry, err := c.Get(ctx, "good")
			return err == nil && entry.NextAt.After(time.Now().Add(50*time.Minute))
		})
	})
}

func TestBadCronEntries(t *testing.T) {
	t.Parallel()
	bad := CronEntry{
		Name: "a\nb", Schedule: "x", Zone: "Mars", Task: "redtask/monitor", Missed: "some", Overlap: "no",
		Options: StartOptions{ID: "x", Timeout: -1},
	}
	err := newEnv(t, "127.0.0.1:1", nil).client(t).Cron().Add(testContext(t), bad)
	require.ErrorIs(t, err, ErrInvalid)
	for _, want := range []string{"Name: use", `zone "Mars"`, "belong to the runners", `Missed "some"`, `Overlap "no"`, "Options: ID", "Timeout -1ns"} {
		require.ErrorContains(t, err, want)
	}
	good := CronEntry{Name: "n", Schedule: "@daily", Task: "test/tick"}
	all := good
	all.Missed = MissedAll
	require.ErrorContains(t, newEnv(t, "127.0.0.1:1", nil).client(t).Cron().Add(testContext(t), all), "MissedAll with OverlapSkip")
	options := RunnerOptions{Cron: []CronEntry{good, good, bad}, Locals: []Local{}}.withDefaults()
	err = options.validate()
	for _, want := range []string{"leave redtask/cron out", `"n" is declared twice`, "Name: use"} {
		require.ErrorContains(t, err, want)
	}
	require.Contains(t, fmt.Sprint(err), "schedule")
}

// A cron that has no logger of its own tells that of its runner.
func TestCronLogsWithItsRunner(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.do(t, "HSET", e.key("cron:bad"), "task", "test/tick")
		e.do(t, "ZADD", e.key("cron"), 0, "bad")
		e.runner(t, ticks(newBlocker(), make(chan *Run, 1)), func(o *RunnerOptions) { o.Locals = defaultLocals() })
		eventually(t, "it is told", func() bool { return e.log.has("an entry of the schedule is bad") })
	})
}

// A key of the wrong type in the place of a declared entry keeps no other one from firing.
func TestCronBesideABrokenKey(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		ran := make(chan *Run, 100)
		e.do(t, "SET", e.key("cron:bad"), "x")
		e.runner(t, ticks(newBlocker(), ran), func(o *RunnerOptions) {
			onlyCron(o)
			for _, name := range []string{"bad", "good"} {
				o.Cron = append(o.Cron, CronEntry{Name: name, Schedule: "@every 1s", Task: "test/tick"})
			}
		})
		require.True(t, strings.HasPrefix(receive(t, "a run", ran).ID(), "good@"))
	})
}

// What the options of an entry say wrongly is told before its tasks end by it.
func TestCronRecordTellsBadOptions(t *testing.T) {
	t.Parallel()
	require.Contains(t, newCronRecord("q", "n", map[string]string{"options": `{"priority":"urgent"}`}).Error, "urgent")
	require.Equal(t, "bad", newCronRecord("q", "n", map[string]string{"options": `{"priority":"urgent"}`, "error": "bad"}).Error)
	require.Empty(t, newCronRecord("q", "n", map[string]string{"options": `{"priority":"low"}`}).Error)
}
