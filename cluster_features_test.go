package redtask

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// All that a start, a policy, a limit and a schedule say holds in a Cluster too, whatever node a queue is on.
func TestClusterFeatures(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.requireSpread()
	c.registry.RegisterWith("test/flaky", FuncOut(func(ctx context.Context, n int) (int, error) {
		FromContext(ctx).Logger().Info(fmt.Sprint("attempt ", FromContext(ctx).Attempt()))
		if FromContext(ctx).Attempt() < 3 {
			return 0, errors.New("bad deploy")
		}
		return n + 1, nil
	}), TaskOptions{Retry: &Retry{Attempts: 3, Backoff: Constant(time.Millisecond)}, LogLines: 10})
	c.registry.Register("test/fails", Func(func(context.Context, any) error { return errSurprise }))
	c.registry.RegisterWith("test/limited", c.blocker.factory, TaskOptions{Limits: Limits{KeyConcurrency: 1}})
	for _, queue := range clusterQueues {
		require.NoError(t, c.client.ForQueue(queue).Cron().Add(testContext(t), CronEntry{Name: "n", Schedule: "@every 1s", Task: "test/echo", Data: "tick"}))
	}
	c.runner()
	for _, queue := range clusterQueues {
		c.retried(queue)
		c.heldBack(queue)
		c.onceAndLater(queue)
		c.manyAtOnce(queue)
		c.fired(queue)
	}
}

func (c *cluster) retried(queue string) {
	client, ctx := c.client.ForQueue(queue), testContext(c.t)
	ids := startAll(c.t, client, many(5, "test/flaky", func(i int, o *StartOptions) {
		o.Priority, o.Headers = []Priority{PriorityHigh, PriorityLow}[i%2], map[string]string{"tenant": queue}
	}))
	records, err := client.WaitMany(ctx, ids)
	require.NoError(c.t, err)
	for i, record := range records {
		output, err := Output[int](record)
		require.NoError(c.t, err)
		require.Equal(c.t, i+1, output)
		require.Len(c.t, record.History, 2)
		require.Equal(c.t, queue, record.Headers["tenant"])
		lines, err := client.Log(ctx, record.ID)
		require.NoError(c.t, err)
		require.Equal(c.t, "attempt 3", lines[len(lines)-1].Message)
	}
}

func (c *cluster) heldBack(queue string) {
	client, ctx := c.client.ForQueue(queue), testContext(c.t)
	for _, o := range []StartOptions{{Key: "k"}, {Key: "k", Ordered: true}} {
		first, err := client.StartWith(ctx, "test/limited", nil, o)
		require.NoError(c.t, err)
		require.Equal(c.t, first, receive(c.t, "the first", c.blocker.running).ID())
		second, err := client.StartWith(ctx, "test/limited", nil, o)
		require.NoError(c.t, err)
		require.NoError(c.t, client.Stop(ctx, first))
		require.Equal(c.t, StateStopped, wait(c.t, client, first).State)
		require.Equal(c.t, second, receive(c.t, "the second", c.blocker.running).ID())
		require.NoError(c.t, client.Stop(ctx, second))
		require.Equal(c.t, StateStopped, wait(c.t, client, second).State)
	}
}

func (c *cluster) onceAndLater(queue string) {
	client, ctx := c.client.ForQueue(queue), testContext(c.t)
	id, err := client.StartWith(ctx, "test/echo", "later", StartOptions{In: time.Hour, Once: Unique("u", 0)})
	require.NoError(c.t, err)
	_, err = client.StartWith(ctx, "test/echo", "later", StartOptions{Once: Unique("u", 0)})
	require.ErrorIs(c.t, err, ErrNotUnique)
	require.NoError(c.t, client.Pause(ctx))
	require.NoError(c.t, client.RescheduleIn(ctx, id, 0))
	record, err := client.Get(ctx, id)
	require.NoError(c.t, err)
	require.Equal(c.t, StateWait, record.State)
	require.NoError(c.t, client.Resume(ctx))
	require.Equal(c.t, StateEnded, wait(c.t, client, id).State)
	_, err = client.StartWith(ctx, "test/echo", "again", StartOptions{Once: Unique("u", 0)})
	require.NoError(c.t, err)
}

func (c *cluster) manyAtOnce(queue string) {
	client, ctx := c.client.ForQueue(queue), testContext(c.t)
	ids := startAll(c.t, client, many(100, "test/fails", nil))
	_, err := client.WaitMany(ctx, ids)
	require.NoError(c.t, err)
	done, err := client.RemoveMany(ctx, Filter{State: StateException, Task: "test/fails", Error: errSurprise.Error()})
	require.NoError(c.t, err)
	require.Equal(c.t, 100, done.Done)
}

// fired: each time of the entry has one task, and that is where its queue is.
func (c *cluster) fired(queue string) {
	client, ctx := c.client.ForQueue(queue), testContext(c.t)
	entry, err := client.Cron().Get(ctx, "n")
	require.NoError(c.t, err)
	eventually(c.t, "it fires", func() bool {
		record, err := client.Get(ctx, firingID("n", entry.NextAt))
		return err == nil && record.State == StateEnded
	})
}
