package redtask

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask/internal/redistest"
)

// manyResult is what WaitMany returned.
type manyResult struct {
	records []*Record
	err     error
}

func waitMany(t testing.TB, client *Client, ids []string) <-chan manyResult {
	ctx := testContext(t)
	done := make(chan manyResult, 1)
	go func() {
		records, err := client.WaitMany(ctx, ids)
		done <- manyResult{records, err}
	}()
	return done
}

// withoutNet is WaitMany without its safety net, which would find all that is missed, if late.
func withoutNet(t testing.TB, client *Client, ids ...string) <-chan manyResult {
	ctx := testContext(t)
	done := make(chan manyResult, 1)
	go func() {
		var got manyResult
		for record, err := range client.waitEach(ctx, ids, time.Hour) {
			got.err = errors.Join(got.err, err)
			if record != nil {
				got.records = append(got.records, record)
			}
		}
		done <- got
	}()
	return done
}

// listened waits until n watch or wait for a task.
func (e *env) listened(t testing.TB, id string, n int64) {
	t.Helper()
	channel := e.key("events:" + id)
	eventually(t, "somebody listens", func() bool { return e.rdb.PubSubNumSub(t.Context(), channel).Val()[channel] == n })
}

func states(records []*Record) []State {
	found := make([]State, len(records))
	for i, record := range records {
		if record != nil {
			found[i] = record.State
		}
	}
	return found
}

// Tasks that are final before, end meanwhile, fail, do not exist yet, or are asked for twice: each has its record in its place.
func TestWaitMany(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		registry := NewRegistry()
		gate := newGate(t)
		registry.Register("test/square", FuncOut(func(_ context.Context, n int) (int, error) {
			if n < 0 {
				return 0, Failf("negative")
			}
			if n > 1 {
				gate.wait()
			}
			return n * n, nil
		}))
		e.runner(t, registry, nil)
		client := e.client(t)
		ids, err := client.StartMany(testContext(t), []StartRequest{{Task: "test/square", Data: 3}, {Task: "test/square", Data: -1}, {Task: "test/square", Data: 1}})
		require.NoError(t, err)
		wait(t, client, ids[2])
		ids = append(ids, "later", ids[0])
		done := waitMany(t, client, ids)
		e.listened(t, "later", 1)
		_, err = client.StartWith(testContext(t), "test/square", 5, StartOptions{ID: "later"})
		require.NoError(t, err)
		gate.open()
		got := receive(t, "all records", done)
		require.NoError(t, got.err)
		require.Equal(t, []State{StateEnded, StateError, StateEnded, StateEnded, StateEnded}, states(got.records))
		for i, output := range []string{"9", "", "1", "25", "9"} {
			require.Equal(t, ids[i], got.records[i].ID)
			require.Equal(t, output, string(got.records[i].Output))
		}
		require.Same(t, got.records[0], got.records[4])
	})
}

func TestWaitManyOfNoneAndOfBadIDs(t *testing.T) {
	t.Parallel()
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"}) // nobody is asked
	t.Cleanup(func() { _ = rdb.Close() })
	client, err := NewClient(rdb, ClientOptions{})
	require.NoError(t, err)
	records, err := client.WaitMany(t.Context(), nil)
	require.NoError(t, err)
	require.Empty(t, records)
	records, err = client.WaitMany(t.Context(), []string{"good", "", "a\nb"})
	require.ErrorIs(t, err, ErrInvalid)
	require.ErrorContains(t, err, "ID 1: ")
	require.ErrorContains(t, err, "ID 2: ")
	require.Equal(t, make([]*Record, 3), records)
	_, err = client.ForQueue("a b").WaitMany(t.Context(), []string{"good"})
	require.ErrorIs(t, err, ErrInvalid)
	_, err = client.WaitMany(t.Context(), []string{"good"})
	require.ErrorContains(t, err, "connection refused", "as with Watch")
}

func TestWaitManyOfARemovedTask(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		client := e.client(t)
		for _, id := range []string{"goes", "stays"} {
			_, err := client.StartWith(testContext(t), "test/x", nil, StartOptions{ID: id})
			require.NoError(t, err)
		}
		require.NoError(t, e.rdb.HSet(t.Context(), e.key("task:over"), "task", "t/t", "state", "ENDED").Err())
		looked := make(chan struct{})
		done := make(chan manyResult, 1)
		ctx := testContext(t)
		go func() {
			var got manyResult
			for record, err := range client.WaitEach(ctx, []string{"goes", "stays", "late", "over"}) {
				got.err = errors.Join(got.err, err)
				if record != nil {
					got.records = append(got.records, record)
				}
				if len(got.records) == 1 && err == nil {
					close(looked) // at all of them
				}
			}
			done <- got
		}()
		receive(t, "the end of what is over", looked)
		require.NoError(t, e.rdb.HSet(t.Context(), e.key("task:late"), "task", "t/t", "state", "ENDED").Err())
		for _, id := range []string{"goes", "late"} { // of the latter nothing was known before
			require.NoError(t, client.Remove(testContext(t), id))
		}
		require.NoError(t, client.Stop(testContext(t), "stays"))
		got := receive(t, "all records", done)
		require.ErrorIs(t, got.err, ErrNotFound)
		require.ErrorContains(t, got.err, `"goes"`)
		require.ErrorContains(t, got.err, `"late"`)
		require.Equal(t, []State{StateEnded, StateStopped}, states(got.records))
	})
}

// When ctx ends, what is final has its record, and the error says how much is not.
func TestWaitManyEndsWithItsContext(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		require.NoError(t, e.rdb.HSet(t.Context(), e.key("task:done"), "task", "t/t", "state", "ENDED").Err())
		ctx, cancel := context.WithCancelCause(testContext(t))
		defer cancel(nil)
		reason := errors.New("no more time")
		var got []string
		for record, err := range e.client(t).waitEach(ctx, []string{"a", "b", "done", "c", "d"}, time.Hour) {
			if err != nil {
				require.ErrorIs(t, err, reason)
				require.EqualError(t, err, `redtask: wait for tasks: 4 of 5 are not final: "a", "b", "c" and others: no more time`)
				got = append(got, "error")
				continue
			}
			got = append(got, record.ID)
			cancel(reason)
		}
		require.Equal(t, []string{"done", "error"}, got)
		_, err := e.client(t).WaitMany(ctx, []string{"a"})
		require.EqualError(t, err, `redtask: wait for tasks: 1 of 1 are not final: "a": no more time`)
	})
}

// Records come in the order in which tasks end; a loop that is left ends the wait, and may be made again.
func TestWaitEach(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		b := newBlocker()
		e.runner(t, blockRegistry(b), nil)
		client := e.client(t)
		var ids []string
		for range 3 {
			ids = append(ids, start(t, client, "test/block", nil))
			receive(t, "runs", b.running)
		}
		each := client.WaitEach(testContext(t), ids)
		next := ids[2]
		require.NoError(t, client.Stop(testContext(t), next))
		var got []string
		for record, err := range each {
			require.NoError(t, err)
			got = append(got, record.ID)
			if len(got) == 2 {
				break
			}
			require.NoError(t, client.Stop(testContext(t), ids[0]))
		}
		require.Equal(t, []string{ids[2], ids[0]}, got)
		e.listened(t, ids[1], 0)
		require.NoError(t, client.Stop(testContext(t), ids[1]))
		for record, err := range each {
			require.NoError(t, err)
			got = append(got, record.ID)
		}
		require.ElementsMatch(t, append(ids, ids[2], ids[0]), got)
	})
}

// pipelines holds pipelines that read back, or fails them.
type pipelines struct {
	lossy
	before func(cmds []redis.Cmder) error
}

func (p *pipelines) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (p *pipelines) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		reads := slices.ContainsFunc(cmds, func(cmd redis.Cmder) bool { return cmd.Name() == "hgetall" || cmd.Name() == "hmget" })
		if err := p.before(cmds); reads && err != nil {
			for _, cmd := range cmds {
				cmd.SetErr(err)
			}
			return err
		}
		return next(ctx, cmds)
	}
}

func (e *env) withPipelines(t *testing.T, before func(cmds []redis.Cmder) error) *env {
	t.Helper()
	own := newEnv(t, e.rdb.Options().Addr, e.mini)
	own.prefix = e.prefix
	own.rdb.AddHook(&pipelines{before: before})
	return own
}

// looking is a client that says when it looks at states, as it does when it waits for many and Redis has confirmed its subscription.
func (e *env) looking(t *testing.T) (*Client, <-chan struct{}) {
	t.Helper()
	looks := make(chan struct{}, 1000)
	own := e.withPipelines(t, func(cmds []redis.Cmder) error {
		if cmds[0].Name() == "hmget" { // a connection begins with a pipeline too
			looks <- struct{}{}
		}
		return nil
	})
	return own.client(t), looks
}

// A task that somebody starts again between its last event and the reading of its record is waited for once more.
func TestWaitManyOfARestartedTask(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		reads, restarted := make(chan struct{}, 100), newGate(t)
		own := e.withPipelines(t, func(cmds []redis.Cmder) error {
			if slices.ContainsFunc(cmds, func(cmd redis.Cmder) bool { return cmd.Name() == "hgetall" }) {
				reads <- struct{}{}
				restarted.wait()
			}
			return nil
		})
		b := newBlocker()
		e.runner(t, blockRegistry(b), nil)
		client := e.client(t)
		id := start(t, client, "test/block", nil)
		first := receive(t, "runs", b.running)
		done := withoutNet(t, own.client(t), id)
		e.listened(t, id, 1)
		require.NoError(t, client.Stop(testContext(t), id))
		receive(t, "its record is about to be read", reads)
		require.NoError(t, client.Restart(testContext(t), id))
		second := receive(t, "runs again", b.running)
		restarted.open()
		require.NoError(t, client.Stop(testContext(t), id))
		got := receive(t, "the record", done)
		require.NoError(t, got.err)
		require.Greater(t, got.records[0].Epoch, first.Epoch())
		require.Equal(t, second.Epoch(), got.records[0].Epoch)
	})
}

// Ends, and a removal, that came while the waiter was disconnected are found when it is back, as are those whose reading fails.
func TestWaitManyReconnects(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		p := newProxy(t, e.rdb.Options().Addr)
		via := newEnv(t, p.addr(), e.mini)
		via.prefix = e.prefix
		b := newBlocker()
		e.runner(t, blockRegistry(b), longLease)
		client := e.client(t)
		ids := []string{"removed"}
		_, err := client.StartWith(testContext(t), "test/block", nil, StartOptions{ID: "removed"})
		require.NoError(t, err)
		for range 2 {
			ids = append(ids, start(t, client, "test/block", nil))
		}
		for range 3 {
			receive(t, "runs", b.running)
		}
		require.NoError(t, client.Stop(testContext(t), ids[1]))
		wait(t, client, ids[1])
		var got []string
		for record, err := range via.client(t).waitEach(testContext(t), ids, time.Hour) {
			if err != nil {
				require.ErrorIs(t, err, ErrNotFound)
				got = append(got, "removed")
				continue
			}
			got = append(got, record.ID)
			if len(got) == 1 { // it has looked at all: cut off now, it hears nothing of the others
				p.cut(false, true)
				for _, id := range []string{ids[0], ids[2]} {
					require.NoError(t, client.Stop(testContext(t), id))
					wait(t, client, id)
				}
				require.NoError(t, client.Remove(testContext(t), "removed"))
				p.allow()
			}
		}
		require.Equal(t, ids[1], got[0])
		require.ElementsMatch(t, ids, got)
	})
}

// A task of which no more than an event was seen, and that is removed while the waiter is disconnected, is not waited for.
func TestWaitManyFindsARemovalOfWhatItHeardOf(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		p := newProxy(t, e.rdb.Options().Addr)
		via := newEnv(t, p.addr(), e.mini)
		via.prefix = e.prefix
		client, looks := via.looking(t)
		done := withoutNet(t, client, "42")
		receive(t, "it is subscribed, and looks", looks)
		eventually(t, "the removal", func() bool { // an event may be cut off with the connection: then it is said again
			e.rdb.Publish(t.Context(), e.key("events:42"), `{"event":"running"}`)
			p.cut(false, false)
			return len(done) > 0
		})
		require.ErrorIs(t, receive(t, "the end", done).err, ErrNotFound)
	})
}

// Reading that fails because Redis is away is tried again; a refusal is told.
func TestWaitManyWhenReadingFails(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		var failures atomic.Int32
		own := e.withPipelines(t, func([]redis.Cmder) error {
			if failures.Add(1)%2 != 0 {
				return errors.New("network is down")
			}
			return nil
		})
		var ids []string
		for i := range 200 {
			ids = append(ids, fmt.Sprint(i))
			require.NoError(t, e.rdb.HSet(t.Context(), e.key("task:"+ids[i]), "task", "t/t", "state", "ENDED").Err())
		}
		records, err := own.client(t).WaitMany(testContext(t), ids)
		require.NoError(t, err)
		require.Equal(t, slices.Repeat([]State{StateEnded}, 200), states(records))
		refusing := e.withPipelines(t, func([]redis.Cmder) error { return serverError("NOPERM this user has no permissions") })
		_, err = refusing.client(t).WaitMany(testContext(t), ids)
		require.ErrorIs(t, err, ErrDenied)
	})
}

// serverError is an error that Redis answered.
type serverError string

func (s serverError) Error() string { return string(s) }
func (serverError) RedisError()     {}

// An end that no event told of is found all the same, also while others of the tasks talk.
func TestWaitManyFindsAnEndWithoutEvent(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		client := e.client(t)
		require.NoError(t, e.rdb.HSet(t.Context(), e.key("task:talks"), "task", "t/t", "state", "RUNNING").Err())
		got := make(chan *Record, 1)
		go func() {
			for record, err := range client.waitEach(testContext(t), []string{"quiet", "talks"}, 20*time.Millisecond) {
				if err == nil {
					got <- record
				}
				return
			}
		}()
		e.listened(t, "talks", 1)
		require.NoError(t, e.rdb.Publish(t.Context(), e.key("events:talks"), `{"event":"hello","id":"talks"}`).Err())
		require.NoError(t, e.rdb.HSet(t.Context(), e.key("task:quiet"), "task", "t/t", "state", "ERROR").Err())
		require.Equal(t, "quiet", receive(t, "the end", got).ID)
	})
}

// Whoever may publish can forge an end: the record decides.
func TestWaitManyIsNotFooledByAnEvent(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		client := e.client(t)
		require.NoError(t, e.rdb.HSet(t.Context(), e.key("task:42"), "task", "t/t", "state", "RUNNING").Err())
		done := waitMany(t, client, []string{"42"})
		e.listened(t, "42", 1)
		for _, junk := range []string{"junk", `{"event":5}`, `{}`, `{"event":"ended","id":"42"}`, `{"event":"removed","id":"other"}`} {
			require.NoError(t, e.rdb.Publish(t.Context(), e.key("events:42"), junk).Err())
		}
		require.NoError(t, e.rdb.HSet(t.Context(), e.key("task:42"), "state", "STOPPED").Err())
		require.NoError(t, e.rdb.Publish(t.Context(), e.key("events:42"), `{"event":"stopped","id":"42"}`).Err())
		got := receive(t, "the end", done)
		require.NoError(t, got.err)
		require.Equal(t, StateStopped, got.records[0].State)
	})
}

// Ten thousand at once, on one connection for their events, while some talk without end.
func TestWaitManyOfTenThousand(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		const n = 10_000
		ids := make([]string, n)
		for i := range ids {
			ids[i] = fmt.Sprint("task", i)
		}
		end := func(part []string) {
			for chunk := range slices.Chunk(part, 500) {
				_, err := e.rdb.Pipelined(t.Context(), func(p redis.Pipeliner) error {
					for _, id := range chunk {
						p.HSet(t.Context(), e.key("task:"+id), "task", "t/t", "state", "ENDED")
						p.Publish(t.Context(), e.key("events:"+id), `{"event":"ended","data":"`+strings.Repeat("x", 200)+`"}`)
					}
					return nil
				})
				require.NoError(t, err)
			}
		}
		end(ids[:n/2])
		own := newEnv(t, e.rdb.Options().Addr, e.mini)
		own.prefix = e.prefix
		done := waitMany(t, own.client(t), ids)
		e.listened(t, ids[n-1], 1)
		end(ids[n/2:])
		got := receive(t, "all records", done)
		require.NoError(t, got.err)
		require.Equal(t, slices.Repeat([]State{StateEnded}, n), states(got.records))
		require.EqualValues(t, 1, own.rdb.PoolStats().PubSubStats.Created, "connections for events")
	})
}

// A restart of Redis under a wait.
func TestWaitManyOverARestartOfRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	e := newEnv(t, server.Addr, nil)
	client, looks := e.looking(t)
	done := waitMany(t, client, []string{"42", "43"})
	receive(t, "it is subscribed, and looks", looks)
	server.Kill()
	server.Restart(t)
	eventually(t, "the ends", func() bool {
		return e.rdb.HSet(t.Context(), e.key("task:42"), "task", "t/t", "state", "ENDED").Err() == nil &&
			e.rdb.HSet(t.Context(), e.key("task:43"), "task", "t/t", "state", "ERROR").Err() == nil
	})
	for _, id := range []string{"42", "43"} { // if it listens again already
		require.NoError(t, e.rdb.Publish(t.Context(), e.key("events:"+id), `{"event":"ended"}`).Err())
	}
	got := receive(t, "all records", done)
	require.NoError(t, got.err)
	require.Equal(t, []State{StateEnded, StateError}, states(got.records))
}
