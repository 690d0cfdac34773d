package store

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// The hash of a task that ends has moved already, and the queue's keys have not: the batch is refused as a whole, and applied when it is
// said again. Taken as broken the end would be lost: nobody owned the task any more, and its record said RUNNING for ever.
func TestLeaveDuringSlotMigration(t *testing.T) {
	m := newMigrating(t)
	ctx := testContext(t)
	q := m.q
	ok, _, err := q.Register(ctx, &RunnerInfo{ID: "r", Lease: time.Minute, Silence: time.Minute})
	require.NoError(t, err)
	require.True(t, ok)
	ids := []string{"bare", "fields", "stays"}
	tasks := make([]NewTask, len(ids))
	for i, id := range ids {
		tasks[i] = NewTask{ID: id, Task: "test/a", Data: "1"}
	}
	_, err = q.Start(ctx, tasks)
	require.NoError(t, err)
	claimed, err := q.Commit(ctx, "r", &Batch{Number: 1, Claim: len(ids)})
	require.NoError(t, err)
	require.Len(t, claimed.Claims, len(ids))
	epochs := map[string]int64{}
	for _, claim := range claimed.Claims {
		epochs[claim.ID] = claim.Epoch
	}
	leave := func() ([]string, error) {
		batch := &Batch{Number: 2}
		batch.Leave("bare", Member(epochs["bare"], "bare"), &Leave{State: "STOPPED", Event: `"data":null,"id":"bare"}`})
		batch.Leave("fields", Member(epochs["fields"], "fields"),
			&Leave{State: "ENDED", Event: `"data":5,"id":"fields"}`, Fields: []string{"output", "5"}})
		result, err := q.Commit(ctx, "r", batch)
		if err != nil {
			return nil, err
		}
		require.Equal(t, Applied, result.Outcome)
		return result.Codes, nil
	}

	// Of the keys that the call names only room, which never exists, is missing.
	_, err = q.Stop(ctx, "stays")
	require.NoError(t, err)
	require.NoError(t, q.rdb.ZAdd(ctx, q.keys.scheduled, redis.Z{Score: 9e12, Member: "later"}).Err())
	require.NoError(t, q.Count(ctx, "stuck", 1))
	require.NoError(t, q.rdb.LPush(ctx, q.keys.wait, "nobody").Err())
	require.NoError(t, q.rdb.LPush(ctx, q.keys.inbox("r"), "nobody").Err())
	m.begin()
	m.move(q.keys.task("bare"), q.keys.task("fields"))
	_, err = leave()
	require.True(t, redis.IsTryAgainError(err), err)
	require.Len(t, m.from.SMembers(ctx, q.keys.running("r")).Val(), 3, "they stay the runner's")

	m.finish()
	codes, err := leave()
	require.NoError(t, err)
	require.Equal(t, []string{"ok", "ok"}, codes)
	require.Equal(t, "STOPPED", m.to.HGet(ctx, q.keys.task("bare"), "state").Val())
	require.Equal(t, []string{"ENDED", "5"}, toStrings(m.to.HMGet(ctx, q.keys.task("fields"), "state", "output").Val()))
	require.Len(t, m.to.SMembers(ctx, q.keys.running("r")).Val(), 1)
}

func toStrings(values []any) []string {
	texts := make([]string, len(values))
	for i, value := range values {
		texts[i] = text(value)
	}
	return texts
}
