package store

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask/internal/redistest"
)

// migrating is a queue whose slot is on its way to another node, as during `redis-cli --cluster reshard`.
type migrating struct {
	t        *testing.T
	q        *Queue
	from, to *redis.Client
	toAddr   string
	toID     string
	fromID   string
	slot     int64
}

func newMigrating(t *testing.T) *migrating {
	addrs := redistest.Cluster(t)
	rdb := redis.NewClusterClient(&redis.ClusterOptions{Addrs: addrs, MaxRedirects: 3})
	t.Cleanup(func() { _ = rdb.Close() })
	q := New(rdb, "m").Queue("q")
	ctx := testContext(t)
	master, err := rdb.MasterForKey(ctx, q.keys.wait)
	require.NoError(t, err)
	m := &migrating{t: t, q: q, from: master}
	m.slot = rdb.ClusterKeySlot(ctx, q.keys.wait).Val()
	for _, a := range addrs {
		if a != master.Options().Addr {
			m.toAddr = a
			break
		}
	}
	m.to = redis.NewClient(&redis.Options{Addr: m.toAddr})
	t.Cleanup(func() { _ = m.to.Close() })
	m.toID = m.to.Do(ctx, "CLUSTER", "MYID").Val().(string)
	m.fromID = m.from.Do(ctx, "CLUSTER", "MYID").Val().(string)
	return m
}

func (m *migrating) begin() {
	ctx := testContext(m.t)
	require.NoError(m.t, m.to.Do(ctx, "CLUSTER", "SETSLOT", m.slot, "IMPORTING", m.fromID).Err())
	require.NoError(m.t, m.from.Do(ctx, "CLUSTER", "SETSLOT", m.slot, "MIGRATING", m.toID).Err())
}

func (m *migrating) move(keys ...string) {
	host, port, _ := net.SplitHostPort(m.toAddr)
	args := []any{"MIGRATE", host, port, "", 0, 5000, "KEYS"}
	for _, k := range keys {
		args = append(args, k)
	}
	require.NoError(m.t, m.from.Do(testContext(m.t), args...).Err())
}

// finish moves what is left and gives the slot to the target.
func (m *migrating) finish() {
	ctx := testContext(m.t)
	for {
		keys := m.from.Do(ctx, "CLUSTER", "GETKEYSINSLOT", m.slot, 100).Val().([]any)
		if len(keys) == 0 {
			break
		}
		var names []string
		for _, k := range keys {
			names = append(names, fmt.Sprint(k))
		}
		m.move(names...)
	}
	require.NoError(m.t, m.to.Do(ctx, "CLUSTER", "SETSLOT", m.slot, "NODE", m.toID).Err())
	require.NoError(m.t, m.from.Do(ctx, "CLUSTER", "SETSLOT", m.slot, "NODE", m.toID).Err())
}

// While a slot moves, the keys that a script names may be on the target all together, and the records that only it knows of still on the
// source: it would find no hash. So each call is refused until the slot has moved; then it works, and nothing is lost.
func TestEveryCallDuringSlotMigration(t *testing.T) {
	m := newMigrating(t)
	ctx := testContext(t)
	worlds := map[string]*env{}
	for call := range calls { // all in one slot, under prefixes of their own
		w := (&env{t: t, rdb: m.from}).world()
		w.queue = New(m.q.rdb, w.store.prefix).Queue("q")
		worlds[call] = w
	}
	m.begin()
	for call, w := range worlds {
		require.True(t, redis.IsTryAgainError(calls[call](ctx, w)), call+" with all keys on the source")
		for name, key := range w.allKeys() {
			if !strings.HasPrefix(name, "task:") {
				m.move(key)
			}
		}
		err := calls[call](ctx, w)
		require.True(t, redis.IsTryAgainError(err), "%s with the records on the source: %v", call, err)
		require.False(t, Refused(err), "it passes")
	}
	m.finish()
	for call, w := range worlds {
		w.rdb = m.to
		w.requireWorld(call+" refused", "", "")
		require.NoError(t, calls[call](ctx, w), call)
		w.takeOverAll("dead")
		w.requireWorld(call+" made again", "", call)
	}
}

// A due task whose hash has moved already, while `scheduled` and `wait` have not, must not be lost.
func TestPromoteDuringSlotMigration(t *testing.T) {
	m := newMigrating(t)
	ctx := testContext(t)
	q := m.q
	_, err := q.Start(ctx, []NewTask{{ID: "other", Task: "test/a", Data: "1"}}) // the line is not empty
	require.NoError(t, err)
	require.NoError(t, q.rdb.HSet(ctx, q.keys.task("x"), "task", "test/a", "data", "1", "state", "SCHEDULED").Err())
	require.NoError(t, q.rdb.ZAdd(ctx, q.keys.scheduled, redis.Z{Score: float64(time.Now().Add(-time.Second).UnixMilli()), Member: "x"}).Err())
	m.begin()
	m.move(q.keys.task("x"))
	promoted, err := q.Promote(ctx, 64)
	moved := promoted.Moved
	t.Log("promote:", moved, err)
	m.finish()
	line := m.to.LRange(ctx, q.keys.wait, 0, -1).Val()
	sched := m.to.ZRange(ctx, q.keys.scheduled, 0, -1).Val()
	hash := m.to.HGetAll(ctx, q.keys.task("x")).Val()
	t.Log(line, sched, hash)
	require.Contains(t, append(line, sched...), "x", "task x is on no key: lost")
}

// The same for a claim: a busy runner has all keys that the script names.
func TestClaimDuringSlotMigration(t *testing.T) {
	m := newMigrating(t)
	ctx := testContext(t)
	q := m.q
	ok, _, err := q.Register(ctx, &RunnerInfo{ID: "r", Lease: time.Minute, Silence: time.Minute})
	require.NoError(t, err)
	require.True(t, ok)
	_, err = q.Start(ctx, []NewTask{{ID: "busy", Task: "test/a", Data: "1"}})
	require.NoError(t, err)
	res, err := q.Commit(ctx, "r", &Batch{Number: 1, Claim: 1})
	require.NoError(t, err)
	require.Len(t, res.Claims, 1)
	_, err = q.Stop(ctx, "busy") // control
	require.NoError(t, err)
	require.NoError(t, q.rdb.ZAdd(ctx, q.keys.scheduled, redis.Z{Score: 9e12, Member: "later"}).Err())
	require.NoError(t, q.Count(ctx, "stuck", 1))
	_, err = q.Start(ctx, []NewTask{{ID: "w", Task: "test/a", Data: "1"}, {ID: "x", Task: "test/a", Data: "1"}, {ID: "y", Task: "test/a", Data: "1"}})
	require.NoError(t, err)
	require.NoError(t, q.rdb.LMove(ctx, q.keys.wait, q.keys.inbox("r"), "RIGHT", "LEFT").Err())
	m.begin()
	m.move(q.keys.task("x"))
	res, err = q.Commit(ctx, "r", &Batch{Number: 2, Claim: 2})
	if err == nil {
		t.Logf("claims %v drops %v", res.Claims, res.Drops)
	} else {
		t.Log(err)
	}
	m.finish()
	line := m.to.LRange(ctx, q.keys.wait, 0, -1).Val()
	t.Log(line, m.to.LRange(ctx, q.keys.inbox("r"), 0, -1).Val(), m.to.SMembers(ctx, q.keys.running("r")).Val())
	require.Contains(t, line, "x", "task x is on no key: lost")
}

// A takeover of a dead runner: keys it names all exist (somebody died with an inbox, a control hash).
func TestTakeOverDuringSlotMigration(t *testing.T) {
	m := newMigrating(t)
	ctx := testContext(t)
	q := m.q
	_, _, err := q.Register(ctx, &RunnerInfo{ID: "r", Lease: time.Minute, Silence: time.Minute})
	require.NoError(t, err)
	var tasks []NewTask
	for i := range 3 {
		tasks = append(tasks, NewTask{ID: "t" + strconv.Itoa(i), Task: "test/a", Data: "1"})
	}
	_, err = q.Start(ctx, tasks)
	require.NoError(t, err)
	_, err = q.Commit(ctx, "r", &Batch{Number: 1, Claim: 2})
	require.NoError(t, err)
	_, err = q.Stop(ctx, "t0") // control:r
	require.NoError(t, err)
	require.NoError(t, q.rdb.ZAdd(ctx, q.keys.scheduled, redis.Z{Score: 9e12, Member: "later"}).Err())
	require.NoError(t, q.Count(ctx, "stuck", 1))
	_, err = q.Start(ctx, []NewTask{{ID: "w", Task: "test/a", Data: "1"}})
	require.NoError(t, err)
	require.NoError(t, q.rdb.LMove(ctx, q.keys.wait, q.keys.inbox("r"), "RIGHT", "LEFT").Err())
	require.NoError(t, q.rdb.ZAdd(ctx, q.keys.runners, redis.Z{Score: 1000, Member: "r"}).Err())
	m.begin()
	m.move(q.keys.task("t1"))
	rec := DefaultRecovery()
	rec.LeaseEnd = 1000
	rec.Limit = 64
	done, err := q.TakeOver(ctx, "r", &rec)
	t.Logf("%+v %v", done, err)
	m.finish()
	line := m.to.LRange(ctx, q.keys.wait, 0, -1).Val()
	owned := m.to.SMembers(ctx, q.keys.running("r")).Val()
	t.Log(line, owned, m.to.HGetAll(ctx, q.keys.task("t1")).Val())
	for _, o := range owned {
		_, id, _ := ParseMember(o)
		line = append(line, id)
	}
	require.Contains(t, line, "t1", "task t1 is on no key: lost")
}
