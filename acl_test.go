package redtask

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask/internal/cleanup"
	"github.com/redtask/redtask/internal/monitor"
	"github.com/redtask/redtask/internal/redistest"
	"github.com/redtask/redtask/internal/store"
)

// userLines are the commands of docs/operations.md that make its users; those for a Cluster apart.
func userLines(t testing.TB, cluster bool) [][]any {
	t.Helper()
	text, err := os.ReadFile("docs/operations.md")
	require.NoError(t, err)
	var lines [][]any
	for line := range strings.SplitSeq(string(text), "\n") {
		if !strings.HasPrefix(line, "ACL SETUSER ") || strings.Contains(line, "+cluster|") != cluster {
			continue
		}
		var args []any
		for _, word := range strings.Fields(line) {
			args = append(args, word)
		}
		lines = append(lines, args)
	}
	require.NotEmpty(t, lines)
	return lines
}

// password is the one that docs/operations.md gives a user.
func password(t testing.TB, user string) string {
	t.Helper()
	for _, line := range userLines(t, false) {
		for _, word := range line {
			if secret, ok := strings.CutPrefix(word.(string), ">"); ok && line[2] == user {
				return secret
			}
		}
	}
	require.FailNow(t, "docs/operations.md has no such user", user)
	return ""
}

// commandsOf are those that a user may call.
func commandsOf(t testing.TB, user string) []string {
	t.Helper()
	var commands []string
	for _, line := range userLines(t, false) {
		for _, word := range line {
			if command, ok := strings.CutPrefix(word.(string), "+"); ok && line[2] == user {
				commands = append(commands, command)
			}
		}
	}
	return commands
}

// withUsers is a server that has the users of docs/operations.md, asked by one that may do all.
func withUsers(t testing.TB) *env {
	t.Helper()
	admin := newEnv(t, redistest.Start(t).Addr, nil)
	admin.prefix = DefaultPrefix
	for _, line := range userLines(t, false) {
		admin.do(t, line...)
	}
	return admin
}

func (e *env) do(t testing.TB, args ...any) any {
	t.Helper()
	reply, err := e.rdb.Do(t.Context(), args...).Result()
	require.NoError(t, err, args)
	return reply
}

// as is the same server, asked by a user of docs/operations.md.
func (e *env) as(t testing.TB, user string) *env {
	t.Helper()
	rdb := redis.NewClient(&redis.Options{Addr: e.rdb.Options().Addr, Username: user, Password: password(t, user)})
	t.Cleanup(func() { _ = rdb.Close() })
	return &env{rdb: rdb, prefix: e.prefix, log: e.log}
}

// tasksOf has a task for each need of these tests.
func tasksOf(v *versions, b *blocker) *Registry {
	registry := NewRegistry()
	registry.Register("test/versions", v.factory)
	registry.Register("test/block", b.factory)
	registry.Register("test/steps", FuncOut(func(ctx context.Context, in string) (string, error) {
		run := FromContext(ctx)
		if err := run.Checkpoint(ctx, in); err != nil {
			return "", err
		}
		return in, run.Emit("step", in)
	}))
	return registry
}

// busy makes a runner renew, and its locals look, often; cleanup leaves one stopped task.
func busy(o *RunnerOptions) {
	o.RenewInterval = 200 * time.Millisecond
	logger := o.Logger
	o.Locals = []Local{
		{Name: monitor.Name, New: func() Task { return monitor.New(monitor.Options{Interval: 20 * time.Millisecond, Logger: logger}) }},
		{Name: cleanup.Name, New: func() Task {
			return cleanup.New(cleanup.Options{
				Interval: 20 * time.Millisecond, Logger: logger, Retention: []store.Retention{{State: "STOPPED", Age: time.Hour, Count: 1}},
			})
		}},
	}
}

// orphan makes a task of a dead runner, an ID in its inbox, and a task of the kind that the monitor delays.
func (e *env) orphan(t *testing.T) {
	t.Helper()
	past := time.Now().Add(-time.Minute).UnixMilli()
	for id, recoveries := range map[string]int{"orphan": 0, "delayed": 1} {
		e.do(t, "HSET", e.key("task:"+id), "task", "test/steps", "data", `"alive"`, "state", "RUNNING", "epoch", 1, "attempt", 1,
			"runner", "dead", "started_at", time.Now().Add(time.Hour).UnixMilli(), "recoveries", recoveries)
		e.do(t, "SADD", e.key("running:dead"), "1:"+id)
	}
	e.do(t, "HSET", e.key("task:caught"), "task", "test/steps", "data", `"caught"`)
	e.do(t, "LPUSH", e.key("inbox:dead"), "caught")
	e.do(t, "HSET", e.key("runner:dead"), "batch", 1, "silence_ms", 1)
	e.do(t, "ZADD", e.key("runners"), past, "dead")
}

// workerLife is all that a runner does: takeover, runs, reload, restart, stop, cleanup, shutdown with a task given back.
func workerLife(t *testing.T, worker *env) {
	v, b := newVersions(), newBlocker()
	checked, idle := make(chan string, 10), make(chan string, 1000)
	registry := tasksOf(v, b)
	registry.RegisterWith("test/limited", Func(func(context.Context, string) error { return nil }), TaskOptions{
		Limits: Limits{Concurrency: 1, Rate: Rate{N: 1, Per: 50 * time.Millisecond}},
	})
	runner := worker.runner(t, registry, func(o *RunnerOptions) {
		busy(o)
		o.hooks.memoryChecked = func(queue string) { checked <- queue }
		o.hooks.idle = func(queue string) { idle <- queue }
	})
	receive(t, "memory is checked", checked)
	client := runner.Client()
	for _, id := range []string{"orphan", "caught", "delayed"} {
		require.Equal(t, StateEnded, wait(t, client, id).State, id)
	}
	control(t, client, v)
	limited, err := client.StartMany(testContext(t), slices.Repeat([]StartRequest{{Task: "test/limited"}}, 3))
	require.NoError(t, err)
	for _, id := range limited {
		require.Equal(t, StateEnded, wait(t, client, id).State)
	}
	eventually(t, "cleanup leaves one of two", func() bool {
		_, err := client.Get(testContext(t), "first")
		return err != nil
	})
	id := start(t, client, "test/block", nil)
	receive(t, "run", b.running)
	for len(idle) > 0 {
		<-idle
	}
	receive(t, "the line is empty", idle)
	require.NoError(t, shutdown(t, runner))
	record, err := client.Get(testContext(t), id)
	require.NoError(t, err)
	require.Equal(t, StateWait, record.State, "given back")
}

// control starts, reloads, restarts and stops tasks on a runner, and watches them.
func control(t *testing.T, client *Client, v *versions) {
	t.Helper()
	ctx := testContext(t)
	all, err := client.WatchQueue(ctx)
	require.NoError(t, err)
	ids, err := client.StartMany(ctx, []StartRequest{{Task: "test/steps", Data: "one"}, {Task: "test/steps", Data: "two"}})
	require.NoError(t, err)
	for _, id := range ids {
		record := wait(t, client, id)
		require.Equal(t, StateEnded, record.State)
		require.NotNil(t, record.Checkpoint)
	}
	for event := range all {
		if event.Name == "step" {
			break
		}
	}
	for _, id := range []string{"first", "second"} {
		_, err := client.StartWith(ctx, "test/versions", "one", StartOptions{ID: id})
		require.NoError(t, err)
		require.Equal(t, "one", receive(t, "start", v.starts))
		require.NoError(t, client.ReloadWith(ctx, id, "two"))
		require.Equal(t, "two", receive(t, "start of the new", v.starts))
		require.NoError(t, client.Restart(ctx, id))
		require.Equal(t, "two", receive(t, "start again", v.starts))
		require.NoError(t, client.Stop(ctx, id))
		require.Equal(t, StateStopped, wait(t, client, id).State)
	}
}

// producerCalls are all that a producer does, where no runner is.
func producerCalls(t *testing.T, producer *env) {
	ctx, client := testContext(t), producer.client(t)
	id := start(t, client, "test/block", "data")
	_, err := client.StartMany(ctx, []StartRequest{{Task: "test/block"}, {Task: "test/block", Options: StartOptions{ID: "own"}}})
	require.NoError(t, err)
	require.NoError(t, client.ReloadWith(ctx, id, "newer"))
	require.NoError(t, client.Stop(ctx, id))
	require.Equal(t, StateStopped, wait(t, client, id).State)
	records, err := client.WaitMany(ctx, []string{id, "ended"})
	require.NoError(t, err)
	require.Equal(t, []State{StateStopped, StateEnded}, states(records))
	require.NoError(t, client.Restart(ctx, id))
	require.NoError(t, client.Remove(ctx, id))
	for _, call := range []func(context.Context, string) error{client.Reload, client.Restart, client.Stop} {
		require.NoError(t, call(ctx, "running"))
	}
	require.ErrorIs(t, client.Remove(ctx, "running"), ErrRunning)
	require.ErrorIs(t, client.Stop(ctx, "nobody"), ErrNotFound)
	_, err = client.StartWith(ctx, "test/block", nil, StartOptions{ID: "ended"})
	require.NoError(t, err)
	events, err := client.Watch(ctx, "own")
	require.NoError(t, err)
	require.NoError(t, client.Stop(ctx, "own"))
	for event := range events {
		require.Equal(t, EventStopped, event.Name)
	}
	_, err = client.WatchQueue(ctx)
	require.NoError(t, err)
	producerPlaces(t, client)
	producerSchedule(t, producer)
	manyTasks(t, client)
}

// manyTasks are the calls for many tasks at once, and for each state where they look.
func manyTasks(t *testing.T, client *Client) {
	ctx := testContext(t)
	ids, err := client.StartMany(ctx, []StartRequest{{Task: "test/many"}, {Task: "test/many"}, {Task: "test/many", Options: StartOptions{In: time.Hour}}})
	require.NoError(t, err)
	require.NoError(t, client.Retry(ctx, ids[2]))
	for _, state := range []State{StateWait, StateScheduled, StateRunning} {
		_, err := client.StopMany(ctx, Filter{State: state, Task: "test/many", NewerThan: time.Hour})
		require.NoError(t, err)
	}
	_, err = client.RetryMany(ctx, Filter{State: StateException, Task: "test/many"})
	require.NoError(t, err)
	_, err = client.RestartMany(ctx, Filter{State: StateStopped, Task: "test/many"})
	require.NoError(t, err)
	for _, state := range []State{StateWait, StateStopped} {
		_, err = client.RemoveMany(ctx, Filter{State: state, Task: "test/many"})
		require.NoError(t, err)
	}
}

// producerPlaces are starts that say more than name and data.
func producerPlaces(t *testing.T, client *Client) {
	ctx := testContext(t)
	require.NoError(t, client.Pause(ctx))
	_, err := client.StartMany(ctx, []StartRequest{
		{Task: "test/block", Options: StartOptions{ID: "first", Key: "k", Ordered: true, Priority: PriorityLow}},
		{Task: "test/block", Options: StartOptions{ID: "next", Key: "k", Ordered: true}},
		{Task: "test/block", Options: StartOptions{ID: "later", In: time.Hour, Once: Unique("u", time.Hour)}},
	})
	require.NoError(t, err)
	require.NoError(t, client.RescheduleIn(ctx, "later", time.Minute))
	for _, id := range []string{"first", "next", "later"} {
		require.NoError(t, client.Stop(ctx, id))
		require.NoError(t, client.Remove(ctx, id))
	}
	require.NoError(t, client.Resume(ctx))
}

// viewerCalls are all that a viewer does.
func viewerCalls(t *testing.T, viewer *env) {
	ctx, client := testContext(t), viewer.client(t)
	require.Equal(t, StateEnded, wait(t, client, "ended").State)
	records, err := client.WaitMany(ctx, []string{"ended", "ended"})
	require.NoError(t, err)
	require.Equal(t, []State{StateEnded, StateEnded}, states(records))
	_, err = client.Log(ctx, "ended")
	require.NoError(t, err)
	counts, err := client.Counts(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 1, counts.Running)
	require.EqualValues(t, 1, counts.Ended)
	for _, state := range []State{StateWait, StateScheduled, StateRunning, StateEnded} {
		page, err := client.List(ctx, ListOptions{State: state})
		require.NoError(t, err)
		require.Len(t, page.Tasks, map[State]int{StateWait: 1, StateRunning: 1, StateEnded: 1}[state], state)
	}
	queues, err := client.Queues(ctx)
	require.NoError(t, err)
	require.Equal(t, []string{DefaultQueue}, queues)
	runners, err := client.Runners(ctx)
	require.NoError(t, err)
	require.Len(t, runners, 1)
	_, err = client.Watch(ctx, "running")
	require.NoError(t, err)
	_, err = client.WatchQueue(ctx)
	require.NoError(t, err)
}

// populate makes one task that waits, one that runs and one that ended, with no runner alive to change them.
func (e *env) populate(t *testing.T) {
	t.Helper()
	ctx := testContext(t)
	s := store.New(e.rdb, e.prefix)
	queue := s.Queue(DefaultQueue)
	require.NoError(t, s.Announce(ctx, DefaultQueue))
	_, _, err := queue.Register(ctx, &store.RunnerInfo{ID: "r", Lease: time.Hour})
	require.NoError(t, err)
	for _, id := range []string{"running", "ended", "waiting"} {
		_, err := queue.Start(ctx, []store.NewTask{{ID: id, Nonce: id, Task: "test/block", Data: "1"}})
		require.NoError(t, err)
	}
	result, err := queue.Commit(ctx, "r", &store.Batch{Number: 1, Claim: 2})
	require.NoError(t, err)
	require.Len(t, result.Claims, 2)
	end := &store.Batch{Number: 2}
	end.Leave("ended", store.Member(result.Claims[1].Epoch, "ended"), &store.Leave{State: "ENDED", Event: `"data":null}`})
	_, err = queue.Commit(ctx, "r", end)
	require.NoError(t, err)
}

// Each user of docs/operations.md does all that it is for, and has no right that it did not need for that.
func TestUsers(t *testing.T) {
	t.Parallel()
	for user, life := range map[string]struct{ before, of func(t *testing.T, e *env) }{
		"producer": {func(t *testing.T, e *env) { e.populate(t); e.do(t, "DEL", "redtask:protocol", "redtask:queues") }, producerCalls},
		"worker":   {func(t *testing.T, e *env) { e.orphan(t) }, workerLife},
		"viewer":   {func(t *testing.T, e *env) { e.populate(t) }, viewerCalls},
	} {
		t.Run(user, func(t *testing.T) {
			t.Parallel()
			admin := withUsers(t)
			life.before(t, admin)
			admin.do(t, "SCRIPT", "FLUSH")
			admin.do(t, "CONFIG", "RESETSTAT")
			life.of(t, admin.as(t, user))
			require.Empty(t, admin.do(t, "ACL", "LOG"), "nothing was refused")
			stats := admin.rdb.Info(t.Context(), "commandstats").Val()
			for _, command := range commandsOf(t, user) {
				require.Contains(t, stats, "cmdstat_"+command+":", "%s does not need +%s", user, command)
			}
			requireRefusals(t, admin, user)
		})
	}
}

// The three users on one server: a producer controls what a worker runs, a viewer sees it.
func TestUsersTogether(t *testing.T) {
	t.Parallel()
	admin := withUsers(t)
	admin.do(t, "ACL", "SETUSER", "default", "off") // nobody else may come in
	v := newVersions()
	admin.as(t, "worker").runner(t, tasksOf(v, newBlocker()), nil)
	viewer := admin.as(t, "viewer").client(t)
	events, err := viewer.WatchQueue(testContext(t))
	require.NoError(t, err)
	control(t, admin.as(t, "producer").client(t), v)
	kinds := map[string]bool{}
	for event := range events {
		kinds[event.Name] = true
		if event.ID == "second" && event.Name == EventStopped {
			break
		}
	}
	require.Subset(t, kinds, map[string]bool{EventRunning: true, "step": true, EventEnded: true, EventStopped: true})
	record, err := viewer.Get(testContext(t), "second")
	require.NoError(t, err)
	require.Equal(t, StateStopped, record.State)
}

func TestUsersInACluster(t *testing.T) {
	t.Parallel()
	addrs := redistest.Cluster(t)
	for _, addr := range addrs {
		node := newEnv(t, addr, nil)
		for _, line := range append(userLines(t, false), userLines(t, true)...) {
			node.do(t, line...)
		}
	}
	as := func(user string) *redis.ClusterClient {
		rdb := redis.NewClusterClient(&redis.ClusterOptions{Addrs: addrs, Username: user, Password: password(t, user)})
		t.Cleanup(func() { _ = rdb.Close() })
		return rdb
	}
	log := &logBuffer{}
	e := &env{log: log}
	registered := make(chan string, 10)
	v := newVersions()
	runner, err := NewRunner(as("worker"), tasksOf(v, newBlocker()), RunnerOptions{
		Logger: e.logger(), Grace: NoGrace, hooks: hooks{listening: func(queue string) { registered <- queue }},
	})
	require.NoError(t, err)
	require.NoError(t, runner.Start(t.Context()))
	t.Cleanup(func() { require.NoError(t, shutdown(t, runner)) })
	receive(t, "the runner listens", registered)
	producer, err := NewClient(as("producer"), ClientOptions{})
	require.NoError(t, err)
	control(t, producer, v)
	viewer, err := NewClient(as("viewer"), ClientOptions{})
	require.NoError(t, err)
	page, err := viewer.List(testContext(t), ListOptions{State: StateStopped})
	require.NoError(t, err)
	require.Len(t, page.Tasks, 2)
	require.False(t, log.has("level=WARN"), log)
	for _, addr := range addrs {
		require.Empty(t, newEnv(t, addr, nil).do(t, "ACL", "LOG"), "nothing was refused")
	}
}
