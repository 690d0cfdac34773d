package redtask

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask/internal/store"
)

// meaning is what a run's end means: the state that is written, the attempt if it changes, and what the record's error tells, or the event's
// reason where the task goes back in line.
type meaning struct{ state, attempt, text string }

var (
	meansEnded     = meaning{state: "ENDED"}
	meansError     = meaning{state: "ERROR", text: "no milk"}
	meansException = meaning{state: "EXCEPTION", text: "surprise"}
	meansRestart   = meaning{state: "WAIT", attempt: "0", text: "restarted"}
)

// uncounted is back in line from a third attempt, which does not count.
func uncounted(reason string) meaning { return meaning{state: "WAIT", attempt: "2", text: reason} }

// meanings is the table "What a return means" of docs/writing-tasks.md, from the weakest cause to the strongest.
var meanings = []struct {
	told                        error
	obeyed, done, failed, other meaning
}{
	{ErrReloaded, uncounted("reloaded"), meansEnded, meansError, meansException}, // with no new instance there
	{ErrLeaseLost, uncounted("lease lost"), meansEnded, meansError, meansException},
	{ErrShutdown, uncounted("shutdown"), meansEnded, meansError, meansException},
	{ErrTimedOut, meaning{state: "EXCEPTION", text: ErrTimedOut.Error() + " of 1m0s"}, meansEnded, meansError,
		meaning{state: "EXCEPTION", text: "surprise; " + ErrTimedOut.Error() + " of 1m0s"}},
	{ErrRestarted, meansRestart, meansRestart, meansRestart, meansRestart},
	{ErrStopped, meaning{state: "STOPPED"}, meansEnded, meansError, meansException},
}

// A task that is told one thing and then another: the stronger decides what its return means, in whatever order they came.
func TestStrongerCauseDecides(t *testing.T) {
	t.Parallel()
	for a, first := range meanings {
		for b, second := range meanings {
			row := meanings[max(a, b)]
			for i, c := range []struct {
				returned error
				want     meaning
			}{
				{nil, row.obeyed},
				{context.Canceled, row.obeyed},
				{fmt.Errorf("read: %w", context.Canceled), row.obeyed},
				{first.told, row.obeyed}, // context.Cause tells the first, whatever came after
				{fmt.Errorf("read: %w", first.told), row.obeyed},
				{ErrDone, row.done},
				{fmt.Errorf("all read: %w", ErrDone), row.done},
				{Failf("no milk"), row.failed},
				{fmt.Errorf("shop: %w", Failf("no milk")), row.failed},
				{errSurprise, row.other},
			} {
				what := fmt.Sprintf("%d: told %q, then %q, returns %v", i, first.told, second.told, c.returned)
				require.Equal(t, c.want, meaningOf(t, []error{first.told, second.told}, c.returned, c.want.text), what)
			}
		}
	}
}

// A deadline is one of the task's own, unless it ran into its timeout.
func TestDeadlineOfATask(t *testing.T) {
	t.Parallel()
	for _, row := range meanings {
		want := meaning{state: "EXCEPTION", text: context.DeadlineExceeded.Error()}
		switch row.told {
		case ErrTimedOut:
			want = row.obeyed
		case ErrRestarted:
			want = meansRestart
		}
		require.Equal(t, want, meaningOf(t, []error{row.told}, context.DeadlineExceeded, want.text), row.told)
	}
}

// Who was told nothing did nothing as told, whatever it returns.
func TestCausesOfATaskThatWasNotTold(t *testing.T) {
	t.Parallel()
	require.Equal(t, meansEnded, meaningOf(t, nil, nil, ""))
	require.Equal(t, meansEnded, meaningOf(t, nil, ErrDone, ""))
	require.Equal(t, meansError, meaningOf(t, nil, Failf("no milk"), "no milk"))
	for _, err := range []error{context.Canceled, context.DeadlineExceeded, ErrStopped, ErrRestarted, ErrShutdown, ErrReloaded, errSurprise} {
		require.Equal(t, meaning{state: "EXCEPTION", text: err.Error()}, meaningOf(t, nil, err, err.Error()), err)
	}
}

// meaningOf ends a run in its third attempt. Of the record's error it has text, if that is in it.
func meaningOf(t *testing.T, told []error, returned error, text string) meaning {
	t.Helper()
	e := loneEngine(RunnerOptions{StuckAfter: time.Hour})
	e.entries = map[string]*entry{"test/x": newEntry("test/x", nil, TaskOptions{Timeout: time.Minute})}
	r := e.newRun(&store.Claim{ID: "42", Task: "test/x", Epoch: 1, Attempt: 3})
	defer r.cancel(nil)
	r.started = true
	for _, cause := range told {
		r.tell(cause)
	}
	outcome := r.Outcome(returned)
	close(r.returned)
	leave := e.outcome(r, r.close(), returned)
	if outcome == StateRunning {
		outcome = StateWait // no new instance is there to take over
	}
	require.Equal(t, leave.State, string(outcome))
	var event struct{ Data struct{ Reason string } }
	require.NoError(t, json.Unmarshal([]byte("{"+leave.Event), &event))
	got := meaning{state: leave.State, text: event.Data.Reason}
	for i := 0; i < len(leave.Fields); i += 2 {
		switch leave.Fields[i] {
		case "attempt":
			got.attempt = leave.Fields[i+1]
		case "error":
			got.text = leave.Fields[i+1]
			if text != "" && strings.Contains(got.text, text) {
				got.text = text
			}
		}
	}
	return got
}

// The same with all of a runner around it: the task hears the first cause, and returns when the second is there.
func TestStrongerCauseDecidesInARunner(t *testing.T) {
	stop := func(e *engine, id string) { e.control(id, "stop") }
	for name, c := range map[string]struct {
		timeout       time.Duration
		first, second func(e *engine, id string)
		told          error
		event, reason string
	}{
		"reload, stop":     {first: func(e *engine, id string) { e.control(id, "reload") }, second: stop, told: ErrReloaded, event: EventStopped},
		"timeout, stop":    {first: func(*engine, string) {}, timeout: time.Millisecond, second: stop, told: ErrTimedOut, event: EventStopped},
		"lease lost, stop": {first: func(e *engine, _ string) { e.loseAll() }, second: stop, told: ErrLeaseLost, event: EventStopped},
		"restart, stop":    {first: func(e *engine, id string) { e.control(id, "restart") }, second: stop, told: ErrRestarted, event: EventStopped},
		"stop, lease lost": {first: stop, second: func(e *engine, _ string) { e.loseAll() }, told: ErrStopped, event: EventStopped},
		"stop, reload":     {first: stop, second: func(e *engine, id string) { e.control(id, "reload") }, told: ErrStopped, event: EventStopped},
		"reload, restart": {
			first: func(e *engine, id string) { e.control(id, "reload") }, second: func(e *engine, id string) { e.control(id, "restart") },
			told: ErrReloaded, event: EventWait, reason: "restarted",
		},
	} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				hold := newGate(t)
				running, causes := make(chan struct{}, 10), make(chan error, 10)
				registry := NewRegistry()
				registry.RegisterWith("test/held", Func(func(ctx context.Context, _ any) error {
					running <- struct{}{}
					<-ctx.Done()
					causes <- context.Cause(ctx)
					hold.wait()
					return ctx.Err()
				}), TaskOptions{Timeout: c.timeout})
				runner := e.runner(t, registry, longLease)
				client := e.client(t)
				events, err := client.Watch(testContext(t), "42")
				require.NoError(t, err)
				_, err = client.StartWith(testContext(t), "test/held", nil, StartOptions{ID: "42"})
				require.NoError(t, err)
				receive(t, "runs", running)
				c.first(runner.engines["default"], "42")
				require.ErrorIs(t, receive(t, "told", causes), c.told)
				c.second(runner.engines["default"], "42")
				hold.open()
				for event := range events {
					if event.Name == EventRunning {
						continue
					}
					require.Equal(t, c.event, event.Name, "the first that is not `running`")
					require.Contains(t, string(event.Data), c.reason)
					break
				}
				if c.event == EventStopped {
					require.Empty(t, running, "no other run")
				}
			})
		})
	}
}

// The record of a task that ran out of time says so, also where it returned an error of its own.
func TestTimeoutAndAnErrorOfItsOwn(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		b := newBlocker()
		b.result.Store(errorBox{errSurprise})
		seen := make(chan error, 1)
		registry := NewRegistry()
		registry.RegisterWith("test/block", b.factory, TaskOptions{Timeout: 20 * time.Millisecond})
		e.runner(t, registry, func(o *RunnerOptions) {
			o.OnException = []ExceptionHandler{func(_ context.Context, _ *Run, err error) { seen <- err }}
		})
		record := wait(t, e.client(t), start(t, e.client(t), "test/block", nil))
		require.Equal(t, StateException, record.State)
		require.Equal(t, "surprise; redtask: the task ran longer than its timeout of 20ms", record.Error)
		err := receive(t, "exception", seen)
		require.ErrorIs(t, err, errSurprise)
		require.ErrorIs(t, err, ErrTimedOut)
	})
}

// A new instance is ready and the old one is told to make room: an end of the old one's own counts all the same, and the new one, which
// never begins, is given up.
func TestEndBeatsAPreparedReload(t *testing.T) {
	for name, c := range map[string]struct {
		returned error
		state    State
	}{
		"done":        {ErrDone, StateEnded},
		"failure":     {Failf("no milk"), StateError},
		"other error": {errSurprise, StateException},
	} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				starts, causes, released := make(chan string, 10), make(chan error, 10), make(chan string, 10)
				registry := NewRegistry()
				registry.Register("test/versions", func() Task {
					var text string
					return (&script{
						provide: func(ctx context.Context) (context.Context, func(), error) {
							return ctx, func() { released <- text }, nil
						},
						init: func(_ context.Context, data json.RawMessage) error { return json.Unmarshal(data, &text) },
						start: func(ctx context.Context) error {
							starts <- text
							<-ctx.Done()
							causes <- context.Cause(ctx)
							return c.returned
						},
					}).task()
				})
				e.runner(t, registry, longLease)
				client := e.client(t)
				id := start(t, client, "test/versions", "one")
				require.Equal(t, "one", receive(t, "runs", starts))
				require.NoError(t, client.ReloadWith(testContext(t), id, "two"))
				require.ErrorIs(t, receive(t, "told", causes), ErrReloaded)
				require.Equal(t, c.state, wait(t, client, id).State)
				require.ElementsMatch(t, []string{"one", "two"}, []string{receive(t, "released", released), receive(t, "released", released)})
				require.Empty(t, starts, "the new one never begins")
			})
		})
	}
}
