package redtask

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask/internal/cleanup"
	"github.com/redtask/redtask/internal/cron"
	"github.com/redtask/redtask/internal/monitor"
	"github.com/redtask/redtask/internal/redistest"
	"github.com/redtask/redtask/internal/store"
)

var clusterQueues = []string{"red", "green", "blue", "yellow"}

// cluster is a runner with four queues on a real Redis Cluster of three masters.
type cluster struct {
	t        *testing.T
	rdb      *redis.ClusterClient
	prefix   string
	log      *logBuffer
	registry *Registry
	blocker  *blocker
	versions *versions
	client   *Client
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	addrs := redistest.Cluster(t)
	c := &cluster{
		t: t, rdb: redis.NewClusterClient(&redis.ClusterOptions{Addrs: addrs}), prefix: "cluster", log: &logBuffer{}, registry: NewRegistry(),
		blocker: newBlocker(), versions: newVersions(),
	}
	t.Cleanup(func() {
		_ = c.rdb.Close()
		if t.Failed() {
			t.Log("log of the runners:\n" + c.log.String())
		}
	})
	c.registry.Register("test/echo", FuncOut(func(ctx context.Context, in string) (string, error) {
		return in, FromContext(ctx).Emit("echo", in)
	}))
	c.registry.Register("test/block", c.blocker.factory)
	c.registry.Register("test/versions", c.versions.factory)
	client, err := NewClient(c.rdb, ClientOptions{Prefix: c.prefix})
	require.NoError(t, err)
	c.client = client
	return c
}

func (c *cluster) key(queue, rest string) string { return c.prefix + ":{" + queue + "}:" + rest }

func (c *cluster) runner() *Runner {
	c.t.Helper()
	options := RunnerOptions{
		Prefix: c.prefix, Grace: NoGrace, Logger: slog.New(slog.NewTextHandler(c.log, nil)), Queues: map[string]int{},
		Locals: []Local{
			{Name: monitor.Name, New: func() Task { return monitor.New(monitor.Options{Interval: 50 * time.Millisecond}) }},
			{Name: cleanup.Name, New: func() Task {
				return cleanup.New(cleanup.Options{
					Interval: 50 * time.Millisecond, Retention: []store.Retention{{State: "ERROR", Age: time.Hour, Count: 1}},
				})
			}},
			{Name: cron.Name, New: func() Task { return cron.New(cron.Options{}) }},
		},
	}
	for _, queue := range clusterQueues {
		options.Queues[queue] = 10
	}
	fastLease(&options)
	runner, err := NewRunner(c.rdb, c.registry, options)
	require.NoError(c.t, err)
	require.NoError(c.t, runner.Start(c.t.Context()))
	c.t.Cleanup(func() { c.shutdown(runner) })
	return runner
}

func (c *cluster) shutdown(runner *Runner) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	require.NoError(c.t, runner.Shutdown(ctx))
}

func TestCluster(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.requireSpread()
	runner := c.runner()
	for _, queue := range clusterQueues {
		c.runAndWatch(queue)
		c.stopAndReload(queue)
		c.startMany(queue)
		c.takeOver(queue)
		c.cleanUp(queue)
	}
	queues, err := c.client.Queues(testContext(t))
	require.NoError(t, err)
	require.ElementsMatch(t, clusterQueues, queues)
	c.giveBack(runner)
}

// requireSpread: the queues sit on more than one node, and each queue's keys in one slot.
func (c *cluster) requireSpread() {
	nodes := map[string]bool{}
	for _, queue := range clusterQueues {
		slots := map[int64]bool{}
		for _, rest := range []string{"wait", "task:42", "runners", "running:r", "final:ENDED", "epoch"} {
			slot, err := c.rdb.ClusterKeySlot(c.t.Context(), c.key(queue, rest)).Result()
			require.NoError(c.t, err)
			slots[slot] = true
		}
		require.Len(c.t, slots, 1, queue)
		node, err := c.rdb.MasterForKey(c.t.Context(), c.key(queue, "wait"))
		require.NoError(c.t, err)
		nodes[node.Options().Addr] = true
	}
	require.Greater(c.t, len(nodes), 1, "choose other names: all queues are on one node")
}

func (c *cluster) runAndWatch(queue string) {
	ctx, client := testContext(c.t), c.client.ForQueue(queue)
	events, err := client.Watch(ctx, "watched")
	require.NoError(c.t, err)
	all, err := client.WatchQueue(ctx)
	require.NoError(c.t, err)
	id, err := client.StartWith(ctx, "test/echo", "hi "+queue, StartOptions{ID: "watched"})
	require.NoError(c.t, err)
	var kinds []string
	for event := range events {
		kinds = append(kinds, event.Name)
		require.Equal(c.t, id, event.ID)
	}
	require.Equal(c.t, []string{EventRunning, "echo", EventEnded}, kinds, queue)
	kinds = nil
	for event := range all {
		if event.ID != id {
			continue // the runner's own tasks
		}
		if kinds = append(kinds, event.Name); event.final() {
			break
		}
	}
	require.Equal(c.t, []string{EventRunning, "echo", EventEnded}, kinds, queue)
	record := wait(c.t, client, id)
	require.JSONEq(c.t, `"hi `+queue+`"`, string(record.Output))
	require.Equal(c.t, queue, record.Queue)
}

func (c *cluster) stopAndReload(queue string) {
	ctx, client := testContext(c.t), c.client.ForQueue(queue)
	id := start(c.t, client, "test/versions", "one")
	require.Equal(c.t, "one", receive(c.t, "start", c.versions.starts))
	require.NoError(c.t, client.ReloadWith(ctx, id, "two"))
	require.Equal(c.t, "two", receive(c.t, "start of the new", c.versions.starts))
	require.NoError(c.t, client.Restart(ctx, id))
	require.Equal(c.t, "two", receive(c.t, "start again", c.versions.starts))
	require.NoError(c.t, client.Stop(ctx, id))
	require.Equal(c.t, StateStopped, wait(c.t, client, id).State)

	page, err := client.List(ctx, ListOptions{State: StateStopped})
	require.NoError(c.t, err)
	require.Len(c.t, page.Tasks, 1)
	require.Equal(c.t, id, page.Tasks[0].ID)
	require.NoError(c.t, client.Remove(ctx, id))
	_, err = client.Get(ctx, id)
	require.ErrorIs(c.t, err, ErrNotFound)
}

func (c *cluster) startMany(queue string) {
	ctx, client := testContext(c.t), c.client.ForQueue(queue)
	requests := make([]StartRequest, 150)
	for i := range requests {
		requests[i] = StartRequest{Task: "test/echo", Data: fmt.Sprint(i)}
	}
	ids, err := client.StartMany(ctx, requests)
	require.NoError(c.t, err)
	for i, id := range ids {
		record := wait(c.t, client, id)
		require.Equal(c.t, StateEnded, record.State)
		require.JSONEq(c.t, fmt.Sprintf("%q", fmt.Sprint(i)), string(record.Output))
	}
	counts, err := client.Counts(ctx)
	require.NoError(c.t, err)
	require.EqualValues(c.t, 151, counts.Ended)
	require.Zero(c.t, counts.Wait)
	require.Zero(c.t, counts.Dropped)
}

// takeOver lists a runner that died: its lease is past, its task RUNNING. The monitor puts that back in line.
func (c *cluster) takeOver(queue string) {
	ctx := testContext(c.t)
	past := time.Now().Add(-time.Minute).UnixMilli()
	c.rdb.HSet(ctx, c.key(queue, "task:orphan"), "task", "test/echo", "data", `"alive"`, "state", "RUNNING", "epoch", 1, "attempt", 1, "runner", "dead",
		"started_at", past)
	c.rdb.SAdd(ctx, c.key(queue, "running:dead"), "1:orphan")
	c.rdb.HSet(ctx, c.key(queue, "runner:dead"), "batch", 1, "silence_ms", 1)
	require.NoError(c.t, c.rdb.ZAdd(ctx, c.key(queue, "runners"), redis.Z{Score: float64(past), Member: "dead"}).Err())
	record := wait(c.t, c.client.ForQueue(queue), "orphan")
	require.Equal(c.t, StateEnded, record.State)
	require.Equal(c.t, 1, record.Attempt)
	eventually(c.t, "the dead runner is gone", func() bool {
		runners, err := c.client.ForQueue(queue).Runners(context.Background())
		return err == nil && !slices.ContainsFunc(runners, func(r RunnerRecord) bool { return r.ID == "dead" })
	})
	counts, err := c.client.ForQueue(queue).Counts(ctx)
	require.NoError(c.t, err)
	require.EqualValues(c.t, 1, counts.Recovered)
}

// cleanUp: the runner's cleanup keeps one failed task of many.
func (c *cluster) cleanUp(queue string) {
	ctx := testContext(c.t)
	for i := range 5 {
		id := fmt.Sprint("old", i)
		c.rdb.HSet(ctx, c.key(queue, "task:"+id), "task", "test/echo", "state", "ERROR", "ended_at", i+1)
		c.rdb.ZAdd(ctx, c.key(queue, "final:ERROR"), redis.Z{Score: float64(time.Now().UnixMilli() + int64(i)), Member: id})
	}
	eventually(c.t, "cleanup", func() bool { return c.rdb.ZCard(ctx, c.key(queue, "final:ERROR")).Val() == 1 })
	_, err := c.client.ForQueue(queue).Get(ctx, "old0")
	require.ErrorIs(c.t, err, ErrNotFound)
	_, err = c.client.ForQueue(queue).Get(ctx, "old4")
	require.NoError(c.t, err)
}

// giveBack: a shutdown puts what runs back in line, on every node, and leaves no trace of the runner; the next one goes on with it.
func (c *cluster) giveBack(runner *Runner) {
	ids := map[string]string{}
	for _, queue := range clusterQueues {
		ids[queue] = start(c.t, c.client.ForQueue(queue), "test/block", json.RawMessage(`{"of":"`+queue+`"}`))
		receive(c.t, "run", c.blocker.running)
	}
	c.shutdown(runner)
	for _, queue := range clusterQueues {
		page, err := c.client.ForQueue(queue).List(testContext(c.t), ListOptions{State: StateWait})
		require.NoError(c.t, err)
		require.Len(c.t, page.Tasks, 1)
		require.Equal(c.t, ids[queue], page.Tasks[0].ID)
		require.Zero(c.t, page.Tasks[0].Attempt)
		runners, err := c.client.ForQueue(queue).Runners(testContext(c.t))
		require.NoError(c.t, err)
		require.Empty(c.t, runners)
	}
	c.runner()
	var again []string
	for range clusterQueues {
		run := receive(c.t, "second run", c.blocker.running)
		require.Equal(c.t, ids[run.Queue()], run.ID())
		require.Equal(c.t, 1, run.Attempt())
		again = append(again, run.Queue())
	}
	require.ElementsMatch(c.t, clusterQueues, again)
}
