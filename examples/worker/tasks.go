package main

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"time"

	"github.com/redtask/redtask"
)

func registry() *redtask.Registry {
	r := redtask.NewRegistry()
	r.Register("example/hello", redtask.FuncOut(hello))
	r.Register("example/sleep", redtask.Func(sleep))
	r.Register("example/loop", func() redtask.Task { return &loop{stop: make(chan struct{})} })
	r.Register("example/fail", redtask.Func(fail))
	r.Register("example/panic", redtask.Func(panics))
	r.Register("example/crash", redtask.Func(crash))
	r.Register("example/stubborn", redtask.Func(stubborn))
	r.Register("example/context", func() redtask.Task { return inContext{} })
	return r
}

type text struct {
	Text string `json:"text"`
}

// hello emits its text, and has it as output.
func hello(ctx context.Context, in text) (string, error) {
	return in.Text, redtask.FromContext(ctx).Emit("text", in.Text)
}

type duration struct {
	MS int64 `json:"ms"`
}

// sleep sleeps, and minds that it is told to stop.
func sleep(ctx context.Context, in duration) error {
	length, err := milliseconds("ms", in.MS, 0)
	if err != nil {
		return err
	}
	select {
	case <-time.After(length):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stubborn emits `sleeps`, and then minds nothing: do not write tasks like this one.
func stubborn(ctx context.Context, in duration) error {
	length, err := milliseconds("ms", in.MS, 0)
	if err != nil {
		return err
	}
	if err := redtask.FromContext(ctx).Emit("sleeps", in.MS); err != nil {
		return err
	}
	<-time.After(length)
	return nil
}

// milliseconds reads a duration from a task's data. Without the bounds a number could make a loop that never rests.
func milliseconds(field string, n, least int64) (time.Duration, error) {
	const most = math.MaxInt64 / int64(time.Millisecond)
	if n < least || n > most {
		return 0, redtask.Failf("%s is %d: use %d to %d", field, n, least, most)
	}
	return time.Duration(n) * time.Millisecond, nil
}

// loop emits `tick` with a count for as long as it lives, which may be months: deploys and crashes move it, and the count goes on.
type loop struct {
	interval time.Duration
	count    int
	stop     chan struct{}
}

func (l *loop) Init(_ context.Context, data json.RawMessage) error {
	in := struct {
		IntervalMS int64 `json:"interval_ms"`
	}{IntervalMS: 1000}
	if err := json.Unmarshal(data, &in); err != nil {
		return err
	}
	var err error
	l.interval, err = milliseconds("interval_ms", in.IntervalMS, 1)
	return err
}

func (l *loop) Start(ctx context.Context) error {
	run := redtask.FromContext(ctx)
	if _, err := run.LoadCheckpoint(ctx, &l.count); err != nil {
		return err
	}
	ticker := time.NewTicker(l.interval)
	defer ticker.Stop()
	for {
		select {
		case <-l.stop:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
		l.count++
		if err := run.Checkpoint(ctx, l.count); err != nil {
			return err
		}
		if err := run.Emit("tick", map[string]int{"count": l.count}); err != nil {
			return err
		}
	}
}

// Stop lets the loop end between two ticks; the library calls it at most once.
func (l *loop) Stop(ctx context.Context) error {
	redtask.FromContext(ctx).Logger().Info("loop is told to stop")
	close(l.stop)
	return nil
}

// fail ends in ERROR: the task says that it failed.
func fail(_ context.Context, in text) error { return redtask.Failf("failed as asked: %s", in.Text) }

// panics ends in EXCEPTION, with a stack.
func panics(context.Context, any) error { panic("panicked as asked") }

// crash takes the whole process with it: workers that die of a task get it a bounded number of times.
func crash(context.Context, any) error {
	os.Exit(3)
	return nil
}

// inContext works in a context of the application: here one that has a database.
type inContext struct{}

type databaseKey struct{}

type database struct{ user string }

// ProvideContext opens what Init and Start use; what it returns is released after the last of them, however that ended.
func (inContext) ProvideContext(ctx context.Context) (context.Context, func(), error) {
	logger := redtask.FromContext(ctx).Logger()
	db := &database{user: "example"}
	logger.Info("database opened")
	release := func() {
		db.user = ""
		logger.Info("database closed")
	}
	return context.WithValue(ctx, databaseKey{}, db), release, nil
}

func (inContext) Init(ctx context.Context, _ json.RawMessage) error {
	if db, ok := ctx.Value(databaseKey{}).(*database); !ok || db.user == "" {
		return errors.New("there is no open database in the context")
	}
	return nil
}

func (inContext) Start(ctx context.Context) error {
	return redtask.FromContext(ctx).SetOutput("connected as " + ctx.Value(databaseKey{}).(*database).user)
}
