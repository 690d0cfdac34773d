package store

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask/internal/redistest"
)

var realRedis *redistest.Server

func TestMain(m *testing.M) { redistest.Main(m, &realRedis) }

// env is one queue on one server, under a prefix of its own.
type env struct {
	t       testing.TB
	rdb     *redis.Client
	store   *Store
	queue   *Queue
	keys    keys
	mini    *miniredis.Miniredis // nil on real Redis
	numbers map[string]int64     // last batch of each runner
	claims  map[string]Claim     // of a world
	ended   map[string]string    // end times of a world's final tasks
}

// onBoth runs a test on miniredis and on real Redis.
func onBoth(t *testing.T, test func(t *testing.T, e *env)) {
	t.Helper()
	t.Parallel()
	t.Run("miniredis", func(t *testing.T) {
		t.Parallel()
		test(t, onMini(t))
	})
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		test(t, onRedis(t))
	})
}

func onMini(t testing.TB) *env {
	t.Helper()
	mini := miniredis.RunT(t)
	e := newEnv(t, mini.Addr(), "t"+rand.Text())
	e.mini = mini
	return e
}

func onRedis(t testing.TB) *env {
	t.Helper()
	redistest.Binary(t)
	return newEnv(t, realRedis.Addr, "t"+rand.Text())
}

func newEnv(t testing.TB, addr, prefix string) *env {
	t.Helper()
	rdb := redis.NewClient(&redis.Options{Addr: addr})
	t.Cleanup(func() { _ = rdb.Close() })
	s := New(rdb, prefix)
	q := s.Queue("q")
	return &env{t: t, rdb: rdb, store: s, queue: q, keys: q.keys, numbers: map[string]int64{}}
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func (e *env) ctx() context.Context { return testContext(e.t) }

// do runs a raw command; an absent value is nil.
func (e *env) do(args ...any) any {
	e.t.Helper()
	reply, err := e.rdb.Do(e.ctx(), args...).Result()
	if err == redis.Nil {
		return nil
	}
	require.NoError(e.t, err)
	return reply
}

func (e *env) set(id string, fields ...any) {
	e.t.Helper()
	require.NoError(e.t, e.rdb.HSet(e.ctx(), e.keys.task(id), fields...).Err())
}

func (e *env) hash(id string) map[string]string {
	e.t.Helper()
	hash, err := e.rdb.HGetAll(e.ctx(), e.keys.task(id)).Result()
	require.NoError(e.t, err)
	return hash
}

func (e *env) state(id string) string {
	e.t.Helper()
	return e.hash(id)["state"]
}

func (e *env) list(key string) []string {
	e.t.Helper()
	ids, err := e.rdb.LRange(e.ctx(), key, 0, -1).Result()
	require.NoError(e.t, err)
	return ids
}

// line is the wait list; the next to run stands last.
func (e *env) line() []string {
	e.t.Helper()
	return e.list(e.keys.wait)
}

func (e *env) members(runner string) []string {
	e.t.Helper()
	members, err := e.rdb.SMembers(e.ctx(), e.keys.running(runner)).Result()
	require.NoError(e.t, err)
	slices.Sort(members)
	return members
}

func (e *env) zset(key string) []string {
	e.t.Helper()
	ids, err := e.rdb.ZRange(e.ctx(), key, 0, -1).Result()
	require.NoError(e.t, err)
	return ids
}

func (e *env) final(state string) []string {
	e.t.Helper()
	return e.zset(e.keys.final(state))
}

func (e *env) counter(name string) int64 {
	e.t.Helper()
	n, err := e.rdb.HGet(e.ctx(), e.keys.counters, name).Int64()
	if err == redis.Nil {
		return 0
	}
	require.NoError(e.t, err)
	return n
}

func (e *env) register(runner string) {
	e.t.Helper()
	ok, _, err := e.queue.Register(e.ctx(), &RunnerInfo{ID: runner, Lease: time.Minute, Silence: 40 * time.Second, Names: []string{"test/a"}})
	require.NoError(e.t, err)
	require.True(e.t, ok)
	e.numbers[runner] = 0
}

// start puts tasks in line as a client does with IDs that the user chose.
func (e *env) start(ids ...string) {
	e.t.Helper()
	tasks := make([]NewTask, len(ids))
	for i, id := range ids {
		tasks[i] = NewTask{ID: id, Nonce: "nonce of " + id, Task: "test/a", Data: `{"of":1}`}
	}
	faults, err := e.queue.Start(e.ctx(), tasks)
	require.NoError(e.t, err)
	for _, fault := range faults {
		require.NoError(e.t, fault)
	}
}

// commit sends the runner's next batch.
func (e *env) commit(runner string, claim int, fill func(b *Batch)) *Result {
	e.t.Helper()
	result, err := e.tryCommit(runner, claim, fill)
	require.NoError(e.t, err)
	return result
}

func (e *env) tryCommit(runner string, claim int, fill func(b *Batch)) (*Result, error) {
	e.t.Helper()
	e.numbers[runner]++
	b := &Batch{Number: e.numbers[runner], Claim: claim}
	if fill != nil {
		fill(b)
	}
	return e.queue.Commit(e.ctx(), runner, b)
}

// own starts tasks and claims them; the runner must be registered and the line empty.
func (e *env) own(runner string, ids ...string) map[string]Claim {
	e.t.Helper()
	e.start(ids...)
	claims := map[string]Claim{}
	for _, claim := range e.commit(runner, len(ids), nil).Claims {
		claims[claim.ID] = claim
	}
	require.Len(e.t, claims, len(ids))
	return claims
}

func (c *Claim) member() string { return Member(c.Epoch, c.ID) }

// expire makes a runner's lease one that is long past, and returns what a monitor then calls TakeOver with.
func (e *env) expire(runner string) *Recovery {
	e.t.Helper()
	require.NoError(e.t, e.rdb.ZAdd(e.ctx(), e.keys.runners, redis.Z{Score: 1000, Member: runner}).Err())
	r := DefaultRecovery()
	r.LeaseEnd = 1000
	return &r
}

// spoil makes of a key one of a type that no script expects.
func (e *env) spoil(key string) {
	e.t.Helper()
	e.do("DEL", key)
	if key == e.keys.cleaner {
		e.do("LPUSH", key, "spoilt")
		return
	}
	e.do("SET", key, "spoilt")
}

// requireNoneLost: each task is final, or stands on the one key where its state says that it is.
func (e *env) requireNoneLost(runners []string, ids ...string) {
	e.t.Helper()
	line, scheduled := e.line(), e.zset(e.keys.scheduled)
	for _, id := range ids {
		hash := e.hash(id)
		switch hash["state"] {
		case "ENDED", "ERROR", "EXCEPTION", "STOPPED":
		case "", "WAIT":
			require.Contains(e.t, line, id, hash)
		case "SCHEDULED":
			require.Contains(e.t, scheduled, id, hash)
		default:
			owned := slices.ContainsFunc(runners, func(runner string) bool {
				return slices.Contains(e.members(runner), hash["epoch"]+":"+id)
			})
			require.True(e.t, owned, "nobody owns %s: %v", id, hash)
		}
	}
}

// event is what subscribers get.
type event struct {
	Event string          `json:"event"`
	Data  json.RawMessage `json:"data"`
	ID    string          `json:"id"`
	Task  string          `json:"task"`
	Epoch int64           `json:"epoch"`
	Seq   int64           `json:"seq"`
	At    int64           `json:"at"`
}

// tail is an event's JSON after its kind, as runs make it.
func tail(c *Claim, seq int) string {
	id, _ := json.Marshal(c.ID)
	return fmt.Sprintf(`"data":null,"id":%s,"task":%q,"epoch":%d,"seq":%d,"at":1}`, id, c.Task, c.Epoch, seq)
}

// listener hears all events of the queue.
type listener struct {
	e      *env
	pubsub *redis.PubSub
}

func (e *env) listen() *listener {
	e.t.Helper()
	pubsub := e.rdb.PSubscribe(e.ctx(), glob(e.keys.events(""))+"*")
	e.t.Cleanup(func() { _ = pubsub.Close() })
	_, err := pubsub.Receive(e.ctx())
	require.NoError(e.t, err)
	return &listener{e, pubsub}
}

func (l *listener) next() event {
	l.e.t.Helper()
	message, err := l.pubsub.ReceiveMessage(l.e.ctx())
	require.NoError(l.e.t, err)
	var got event
	require.NoError(l.e.t, json.Unmarshal([]byte(message.Payload), &got), message.Payload)
	require.Equal(l.e.t, l.e.keys.events(got.ID), message.Channel)
	return got
}

// kinds reads what was published until now, as `kind ID`.
func (l *listener) kinds() []string {
	l.e.t.Helper()
	l.e.do("PUBLISH", l.e.keys.events("end"), `{"event":"end of test","id":"end"}`)
	var kinds []string
	for {
		got := l.next()
		if got.Event == "end of test" {
			return kinds
		}
		kinds = append(kinds, got.Event+" "+got.ID)
	}
}

// oddIDs are allowed and look like something else to somebody.
var oddIDs = []string{
	"a:b:c", "12:a", `say "hi"`, `back\slash`, "with space", "ünïcödé ✓ 任务", "{brace}", "*?[a]", "0", "-1", "null", "%d%s", "'", "new\u2028line",
	strings.Repeat("x", 256), strings.Repeat("ü", 128),
}

func numbered(prefix string, n int) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = prefix + strconv.Itoa(i)
	}
	return ids
}

func integer(t testing.TB, text string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(text, 10, 64)
	require.NoError(t, err)
	return n
}
