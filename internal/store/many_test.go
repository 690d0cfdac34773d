package store

import (
	"context"
	"errors"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask/internal/redistest"
)

// look reads tasks that are all there.
func (e *env) look(ids ...string) []Found {
	e.t.Helper()
	tasks, err := e.queue.Look(e.ctx(), ids, "created_at", true)
	require.NoError(e.t, err)
	require.Len(e.t, tasks, len(ids))
	return tasks
}

func (e *env) change(word string, tasks []Found, nonce string) Changed {
	e.t.Helper()
	done, err := e.queue.Change(e.ctx(), word, tasks, nonce)
	require.NoError(e.t, err)
	return done
}

func TestLook(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.start("x")
		e.set("y", "task", "test/b", "state", "ERROR", "epoch", 7, "nonce", "n", "created_at", 1, "ended_at", 3, "error", "why", "local", "1")
		e.set("z", "data", "no task")
		e.spoil(e.keys.task("string"))
		ids := []string{"missing", "x", "string", "y", "z"}
		tasks, err := e.queue.Look(e.ctx(), ids, "created_at", true)
		require.NoError(t, err)
		require.Len(t, tasks, 2)
		require.Equal(t, Found{ID: "x", Task: "test/a", State: "WAIT", Nonce: "nonce of x", Since: tasks[0].Since}, tasks[0])
		require.Positive(t, tasks[0].Since)
		require.Equal(t, Found{
			ID: "y", Task: "test/b", State: "ERROR", Error: "why", Since: 1, Nonce: "n", Local: true, epoch: "7",
		}, tasks[1])
		tasks, err = e.queue.Look(e.ctx(), ids, "ended_at", false)
		require.NoError(t, err)
		require.Empty(t, tasks[1].Error)
		require.EqualValues(t, 3, tasks[1].Since)
	})
}

// changes are what may be done to a task in each state, and the state after it.
var changes = map[string]struct{ word, id, after string }{
	"stop waiting":    {Stop, "w1", "STOPPED"},
	"stop scheduled":  {Stop, "s1", "STOPPED"},
	"stop running":    {Stop, "run1", "RUNNING"},
	"restart final":   {Restart, "end1", ""},
	"restart running": {Restart, "run1", "RUNNING"},
	"retry final":     {Retry, "failed1", ""},
	"retry scheduled": {Retry, "s1", ""},
	"remove waiting":  {Remove, "w1", ""},
	"remove final":    {Remove, "end1", ""},
}

// changeWorld has a task that failed, too.
func (e *env) changeWorld() *env {
	w := e.world()
	w.set("failed1", "task", "test/a", "state", "ERROR", "epoch", "1", "ended_at", "5", "error", "why")
	w.do("ZADD", w.keys.final("ERROR"), 5, "failed1")
	return w
}

func (e *env) snapshot(id string) map[string]any {
	return map[string]any{
		"hash": e.hash(id), "line": e.line(), "scheduled": e.zset(e.keys.scheduled), "final": e.final("STOPPED"), "ended": e.final("ENDED"),
		"error": e.final("ERROR"), "intents": e.do("HGETALL", e.keys.controlHash("r")),
	}
}

// A change is made to the task that was read, once, however often it is sent.
func TestChange(t *testing.T) {
	for name, c := range changes {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				w := e.changeWorld()
				events := w.listen()
				tasks := w.look(c.id)
				require.Equal(t, Changed{Done: 1}, w.change(c.word, tasks, "n2"))
				require.Equal(t, c.after, w.state(c.id))
				before, heard := w.snapshot(c.id), len(events.kinds())
				require.Equal(t, Changed{Done: 1}, w.change(c.word, tasks, "n2"), "a replay")
				require.Equal(t, before, w.snapshot(c.id))
				require.LessOrEqual(t, heard, 1)
				require.Empty(t, events.kinds(), "of the replay")
				if c.id != "run1" {
					w.requireNoneLost([]string{"r", "dead"}, w.exist(c.id)...)
				}
			})
		})
	}
}

// exist leaves out what was removed.
func (e *env) exist(ids ...string) []string {
	e.t.Helper()
	var left []string
	for _, id := range ids {
		if len(e.hash(id)) > 0 {
			left = append(left, id)
		}
	}
	return left
}

// moves are what may become of a task between the look and the change.
var moves = map[string]func(w *env, id string){
	"claimed":       func(w *env, id string) { w.set(id, "state", "RUNNING", "epoch", "9001", "runner", "r") },
	"given back":    func(w *env, id string) { w.do("HDEL", w.keys.task(id), "state"); w.set(id, "epoch", "9001") },
	"ended anew":    func(w *env, id string) { w.set(id, "state", "ERROR", "epoch", "9001") },
	"started anew":  func(w *env, id string) { w.do("HDEL", w.keys.task(id), "state", "epoch"); w.set(id, "nonce", "9001") },
	"another epoch": func(w *env, id string) { w.set(id, "epoch", "9001") },
	"another nonce": func(w *env, id string) { w.set(id, "nonce", "9001") },
}

// What has moved on is left alone, whatever became of it.
func TestChangeOfWhatMovedOn(t *testing.T) {
	for name, c := range changes {
		for how, move := range moves {
			t.Run(name+"/"+how, func(t *testing.T) {
				onBoth(t, func(t *testing.T, e *env) {
					w := e.changeWorld()
					events := w.listen()
					tasks := w.look(c.id)
					move(w, c.id)
					before := w.snapshot(c.id)
					require.Equal(t, Changed{Moved: 1}, w.change(c.word, tasks, "n2"))
					require.Equal(t, before, w.snapshot(c.id))
					require.Empty(t, events.kinds())
				})
			})
		}
		t.Run(name+"/removed", func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				w := e.changeWorld()
				tasks := w.look(c.id)
				w.do("DEL", w.keys.task(c.id))
				done := w.change(c.word, tasks, "n2")
				require.Equal(t, 1, done.Done+done.Moved)
				require.Equal(t, c.word == Remove, done.Done == 1)
				require.Zero(t, w.do("EXISTS", w.keys.task(c.id)), "no record comes of it")
			})
		})
	}
}

// A server that knows no script, or forgets them, gets the source once, and none of the tasks is left out or changed twice.
func TestChangeWithoutTheScript(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		server := e
		if e.mini == nil { // others share the server, and their scripts
			server = newEnv(t, redistest.Start(t).Addr, "p")
		}
		ids := server.finals("ERROR", 2*MaxBatch)
		for page := range 2 {
			server.do("SCRIPT", "FLUSH")
			tasks := server.look(ids[page*MaxBatch : (page+1)*MaxBatch]...)
			require.Equal(t, Changed{Done: MaxBatch}, server.change(Restart, tasks, "n"))
		}
		require.ElementsMatch(t, ids, server.line())
	})
}

// cutting loses the answers of pipelines: they were applied, and the caller gets an error of unknown outcome.
type cutting struct{ times int }

var errCut = errors.New("connection cut before the answer")

func (c *cutting) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (c *cutting) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (c *cutting) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if err := next(ctx, cmds); err != nil || cmds[0].Name() != "evalsha" || c.times == 0 {
			return err
		}
		c.times--
		for _, cmd := range cmds {
			cmd.SetErr(errCut)
		}
		return errCut
	}
}

func TestChangeWhoseAnswerIsLost(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		ids := e.finals("EXCEPTION", 10)
		e.change(Restart, e.look(ids[0]), "loads the script")
		events := e.listen()
		e.rdb.AddHook(&cutting{times: 1})
		tasks := e.look(ids[1:]...)
		done, err := e.queue.Change(e.ctx(), Restart, tasks, "n")
		require.ErrorIs(t, err, errCut)
		require.Equal(t, Changed{}, done, "of none it is known")
		require.Len(t, e.line(), 10)
		require.Equal(t, Changed{Done: 9}, e.change(Restart, tasks, "n"), "the same step again")
		require.Len(t, e.line(), 10)
		require.Len(t, events.kinds(), 9)
	})
}

// One that refuses does not keep the others; that nothing can be done at all is an error.
func TestChangeRefused(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		e.own("r", "a", "b")
		_, err := e.queue.Stop(e.ctx(), "a")
		require.NoError(t, err)
		done := e.change(Restart, e.look("a", "b"), "n")
		require.Equal(t, 1, done.Done)
		require.Equal(t, 1, done.Refused)
		var refusal *StateError
		require.ErrorAs(t, done.Refusal, &refusal)
		require.Equal(t, "a", refusal.ID)

		ids := e.finals("ERROR", 3)
		tasks := e.look(ids...)
		mend := e.spoilAside(e.keys.wait)
		_, err = e.queue.Change(e.ctx(), Restart, tasks, "n")
		require.ErrorIs(t, err, ErrWrongType)
		mend()
		require.Equal(t, Changed{Done: 3}, e.change(Restart, tasks, "n"))
		require.ElementsMatch(t, ids, e.line())
	})
}

func TestRetry(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		w := e.changeWorld()
		attempts := w.hash("s1")["attempt"]
		for range 2 { // the second is a replay
			require.NoError(t, w.queue.Retry(w.ctx(), "s1", "n"))
			require.NoError(t, w.queue.Retry(w.ctx(), "failed1", "n"))
		}
		require.Equal(t, []string{"failed1", "s1"}, w.line()[:2])
		require.NotContains(t, w.zset(w.keys.scheduled), "s1")
		require.NotContains(t, w.final("ERROR"), "failed1")
		require.Equal(t, attempts, w.hash("s1")["attempt"], "counted on")
		require.NotContains(t, w.hash("s1"), "due_at")
		w.requireNoneLost(nil, "s1", "failed1")

		before := w.snapshot("w1")
		require.NoError(t, w.queue.Retry(w.ctx(), "w1", "n"), "one in line is left alone")
		require.Equal(t, before, w.snapshot("w1"))
		for id, reason := range map[string]error{"run1": ErrRunning, "end1": ErrFinal, "missing": ErrMissing} {
			require.ErrorIs(t, w.queue.Retry(w.ctx(), id, "n"), reason, id)
		}
		w.spoil(w.keys.task("string"))
		require.ErrorIs(t, w.queue.Retry(w.ctx(), "string", "n"), ErrWrongType)
		require.ErrorContains(t, w.queue.Retry(w.ctx(), "run1", "n"), "it has not failed")
	})
}

// A retry of one that has a place of its own goes there: a line of its priority, behind those of its key.
func TestRetryOfATaskWithOptions(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		for id, options := range map[string]string{"low": `{"priority":"low"}`, "first": `{"key":"k","ordered":true}`, "second": `{"key":"k","ordered":true}`} {
			e.set(id, "task", "test/a", "state", "SCHEDULED", "options", options)
			e.do("ZADD", e.keys.scheduled, 1e15, id)
		}
		for _, id := range []string{"low", "first", "second"} {
			require.Equal(t, Changed{Done: 1}, e.change(Retry, e.look(id), "n"))
		}
		require.Equal(t, []string{"low"}, e.list(e.keys.wait+":low"))
		require.Equal(t, []string{"first", "second"}, e.zset(e.keys.base+"order:k"))
		require.Contains(t, e.line(), "first")
		require.NotContains(t, e.line(), "second")
		require.Empty(t, e.zset(e.keys.scheduled))
	})
}

// To change tasks is what makes room in a full Redis, or takes none.
func TestFullChange(t *testing.T) {
	e := onFull(t, func(e *env) {
		e.own("r", "run")
		e.finals("ERROR", 4)
		e.start("w1", "w2")
		for _, id := range []string{"s1", "s2"} {
			e.set(id, "task", "test/a", "state", "SCHEDULED")
			e.do("ZADD", e.keys.scheduled, 1e15, id)
		}
	})
	for _, c := range []struct {
		word string
		ids  []string
	}{
		{Stop, []string{"w1", "run", "s1"}}, {Retry, []string{"s2", "ERROR0"}}, {Restart, []string{"ERROR1", "ERROR2"}}, {Remove, []string{"w2", "ERROR3"}},
	} {
		require.Equal(t, Changed{Done: len(c.ids)}, e.change(c.word, e.look(c.ids...), "n"), c.word)
	}
}
