package redtask_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redtask/redtask"
)

// A webhook is tried five times. The server may say when to come back, or that it never wants to hear of this again.
func ExampleRetry() {
	answers := []int{503, 429, 200}
	deliver := func(context.Context, string) error {
		answer := answers[0]
		answers = answers[1:]
		switch answer {
		case 200:
			return nil
		case 410:
			return redtask.NoRetry(errors.New("the receiver is gone"))
		case 429:
			return redtask.RetryAfter(errors.New("too many requests"), 10*time.Millisecond) // as its header Retry-After says
		}
		return fmt.Errorf("the receiver answered %d", answer)
	}
	registry := redtask.NewRegistry()
	registry.RegisterWith("webhook/deliver", redtask.Func(deliver), redtask.TaskOptions{
		Retry: &redtask.Retry{Attempts: 5, Backoff: redtask.Exponential(time.Millisecond)},
	})
	client, stop := startRunner(registry)
	defer stop()

	id := must(client.Start(ctx, "webhook/deliver", "https://example.com/hook"))
	record := must(client.Wait(ctx, id))
	fmt.Println(record.State, "at attempt", record.Attempt)
	for _, attempt := range record.History {
		fmt.Println(attempt.Number, attempt.Error)
	}
	// Output:
	// ENDED at attempt 3
	// 1 the receiver answered 503
	// 2 too many requests
}

// A feed that should always be followed is started again whenever it breaks off; one that breaks off all the time is given up, where someone
// will see it.
func ExampleSupervise() {
	registry := redtask.NewRegistry()
	registry.RegisterWith("feed/follow", redtask.Func(func(context.Context, string) error {
		return errors.New("connection refused")
	}), redtask.TaskOptions{
		Supervise: &redtask.Supervise{Backoff: redtask.Constant(time.Millisecond), MaxRestarts: 3, Within: time.Minute},
	})
	client, stop := startRunner(registry)
	defer stop()

	record := must(client.Wait(ctx, must(client.Start(ctx, "feed/follow", "https://example.com/feed"))))
	fmt.Println(record.State, "after", record.Attempt, "runs")
	fmt.Println(record.Error)
	// Output:
	// EXCEPTION after 4 runs
	// restarted 3 times within 1m0s, which is the limit: given up; the last error: connection refused
}

// A run has a time of its own, all attempts together have a deadline, and what waited too long in line is not run at all.
func ExampleStartOptions_timeouts() {
	registry := redtask.NewRegistry()
	registry.Register("report/make", redtask.Func(func(ctx context.Context, _ string) error {
		<-ctx.Done()
		fmt.Println(errors.Is(context.Cause(ctx), redtask.ErrTimedOut), errors.Is(context.Cause(ctx), context.DeadlineExceeded))
		return ctx.Err()
	}))
	client, stop := startRunner(registry)
	defer stop()

	id := must(client.StartWith(ctx, "report/make", "sales", redtask.StartOptions{
		Timeout:  20 * time.Millisecond,
		Deadline: time.Now().Add(time.Hour),
		Expiry:   time.Minute,
	}))
	record := must(client.Wait(ctx, id))
	fmt.Println(record.State, record.Error)
	// Output:
	// true true
	// EXCEPTION redtask: the task ran longer than its timeout of 20ms
}
