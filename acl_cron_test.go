package redtask

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// producerSchedule is what a producer does with the schedule, also while an entry is due that nobody has let fire.
func producerSchedule(t *testing.T, producer *env) {
	ctx, c := testContext(t), producer.client(t).Cron()
	entry := CronEntry{Name: "tick", Schedule: "@every 1h", Task: "test/block"}
	require.NoError(t, c.Add(ctx, entry))
	producer.due(t, "tick", time.Second)
	entry.Data = 7
	require.NoError(t, c.Add(ctx, entry))
	require.NoError(t, c.Pause(ctx, "tick"))
	require.NoError(t, c.Resume(ctx, "tick"))
	_, err := c.Run(ctx, "tick")
	require.NoError(t, err)
	require.NoError(t, c.Remove(ctx, "tick"))
}

// A worker of docs/operations.md lets the schedule fire, with what it declares, and a viewer sees it.
func TestUsersOfTheSchedule(t *testing.T) {
	t.Parallel()
	admin := withUsers(t)
	ran := make(chan *Run, 10)
	admin.as(t, "worker").runner(t, ticks(newBlocker(), ran), func(o *RunnerOptions) {
		onlyCron(o)
		o.Cron = []CronEntry{{Name: "tick", Schedule: "@every 1h", Task: "test/tick"}}
	})
	viewer := admin.as(t, "viewer").client(t).Cron()
	eventually(t, "it is declared", func() bool {
		all, err := viewer.List(testContext(t))
		return err == nil && len(all) == 1 && all[0].Declared
	})
	at := admin.due(t, "tick", time.Second)
	require.Equal(t, firingID("tick", at), receive(t, "it fires", ran).ID())
	require.Empty(t, admin.do(t, "ACL", "LOG"), "nothing was refused")
}
