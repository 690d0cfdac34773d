package redtask_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/redtask/redtask"
)

type customerKey struct{}

// withCustomer gives tasks the customer for whom they were started.
func withCustomer(next redtask.Handler) redtask.Handler {
	return func(ctx context.Context, task redtask.Task) error {
		customer := redtask.FromContext(ctx).Headers()["customer"]
		if customer == "" {
			return redtask.Failf("for which customer? start it with the header") // the task does not run
		}
		return next(context.WithValue(ctx, customerKey{}, customer), task)
	}
}

// counted tells how runs end.
func counted(next redtask.Handler) redtask.Handler {
	return func(ctx context.Context, task redtask.Task) error {
		run := redtask.FromContext(ctx)
		err := next(ctx, task)
		fmt.Printf("runs{task=%q,outcome=%q} +1\n", run.Task(), run.Outcome(err))
		return err
	}
}

func ExampleMiddleware() {
	server := must(miniredis.Run())
	defer server.Close()
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer rdb.Close()

	registry := redtask.NewRegistry()
	registry.Register("report/make", redtask.Func(func(ctx context.Context, title string) error {
		fmt.Println(title, "for", ctx.Value(customerKey{}))
		return nil
	}))
	runner := must(redtask.NewRunner(rdb, registry, redtask.RunnerOptions{
		Middleware: []redtask.Middleware{counted, withCustomer}, // the first is the outermost
		Logger:     slog.New(slog.DiscardHandler),
	}))
	check(runner.Start(ctx))
	client := runner.Client()

	id := must(client.StartWith(ctx, "report/make", "turnover", redtask.StartOptions{Headers: map[string]string{"customer": "acme"}}))
	fmt.Println(must(client.Wait(ctx, id)).State)
	id = must(client.Start(ctx, "report/make", "turnover"))
	fmt.Println(must(client.Wait(ctx, id)).Error)
	check(runner.Shutdown(ctx))
	// Output:
	// turnover for acme
	// runs{task="report/make",outcome="ENDED"} +1
	// ENDED
	// runs{task="report/make",outcome="ERROR"} +1
	// for which customer? start it with the header
}

// Only some tasks need it: those of one name.
func ExampleTaskOptions_middleware() {
	errBusy := errors.New("the printer is busy")
	polite := func(next redtask.Handler) redtask.Handler {
		return func(ctx context.Context, task redtask.Task) error {
			err := next(ctx, task)
			if errors.Is(err, errBusy) {
				return redtask.Fail(err) // foreseen: ERROR, not EXCEPTION
			}
			return err
		}
	}
	registry := redtask.NewRegistry()
	registry.RegisterWith("print/page", redtask.Func(func(context.Context, any) error { return errBusy }),
		redtask.TaskOptions{Middleware: []redtask.Middleware{polite}})
	client, stop := startRunner(registry)
	defer stop()

	fmt.Println(must(client.Wait(ctx, must(client.Start(ctx, "print/page", nil)))).State)
	// Output: ERROR
}

// A task that learns from its data how long it may take.
func ExampleRun_TimeoutAfter() {
	registry := redtask.NewRegistry()
	registry.Register("probe/ping", redtask.Func(func(ctx context.Context, most string) error {
		redtask.FromContext(ctx).TimeoutAfter(must(time.ParseDuration(most)))
		<-ctx.Done() // nobody answers
		fmt.Println(context.Cause(ctx))
		return ctx.Err()
	}))
	client, stop := startRunner(registry)
	defer stop()

	record := must(client.Wait(ctx, must(client.Start(ctx, "probe/ping", "20ms"))))
	fmt.Println(record.State, record.Error)
	// Output:
	// redtask: the task ran longer than its timeout
	// EXCEPTION redtask: the task ran longer than its timeout of 20ms
}
