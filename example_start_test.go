package redtask_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redtask/redtask"
)

// printer registers a task that prints its data.
func printer(registry *redtask.Registry, name string) {
	registry.Register(name, redtask.Func(func(_ context.Context, text string) error {
		fmt.Println(text)
		return nil
	}))
}

// A reminder for tomorrow, that is brought forward and comes at once.
func ExampleClient_Reschedule() {
	registry := redtask.NewRegistry()
	printer(registry, "mail/remind")
	client, stop := startRunner(registry)
	defer stop()

	id := must(client.StartWith(ctx, "mail/remind", "your trial ends", redtask.StartOptions{In: 24 * time.Hour}))
	fmt.Println(must(client.Get(ctx, id)).State)
	check(client.Reschedule(ctx, id, time.Now())) // Stop would cancel it
	fmt.Println(must(client.Wait(ctx, id)).State)
	// Output:
	// SCHEDULED
	// your trial ends
	// ENDED
}

// While a database is moved nothing begins; what was started meanwhile runs afterwards.
func ExampleClient_Pause() {
	registry := redtask.NewRegistry()
	printer(registry, "mail/send")
	client, stop := startRunner(registry)
	defer stop()

	check(client.Pause(ctx))
	id := must(client.Start(ctx, "mail/send", "later"))
	fmt.Println(must(client.Counts(ctx)).Paused, must(client.Get(ctx, id)).State)
	check(client.Resume(ctx))
	fmt.Println(must(client.Wait(ctx, id)).State)
	// Output:
	// true WAIT
	// later
	// ENDED
}

// One report at a time: who asks for it while it is made gets the ID of that one.
func ExampleUnique() {
	registry := redtask.NewRegistry()
	done := make(chan struct{})
	registry.Register("report/make", redtask.Func(func(context.Context, string) error {
		<-done
		return nil
	}))
	client, stop := startRunner(registry)
	defer stop()

	first := must(client.StartWith(ctx, "report/make", "sales", redtask.StartOptions{Once: redtask.Unique("report:sales", time.Hour)}))
	_, err := client.StartWith(ctx, "report/make", "sales", redtask.StartOptions{Once: redtask.Unique("report:sales", time.Hour)})
	conflict, _ := errors.AsType[*redtask.ConflictError](err)
	fmt.Println(errors.Is(err, redtask.ErrNotUnique), conflict.ID == first)
	same := must(client.StartWith(ctx, "report/make", "sales", redtask.StartOptions{Once: redtask.Unique("report:sales", time.Hour).OrExisting()}))
	fmt.Println(same == first)
	close(done)
	fmt.Println(must(client.Wait(ctx, first)).State)
	// Output:
	// true true
	// true
	// ENDED
}

// Someone types: the search index is updated once, with the last text, when it is quiet.
func ExampleDebounce() {
	registry := redtask.NewRegistry()
	printer(registry, "search/index")
	client, stop := startRunner(registry)
	defer stop()

	var id string
	for _, text := range []string{"r", "re", "redtask"} {
		id = must(client.StartWith(ctx, "search/index", text, redtask.StartOptions{Once: redtask.Debounce("page:7", 100*time.Millisecond, 5*time.Second)}))
	}
	must(client.Wait(ctx, id))
	// Output: redtask
}

// However often a sensor sends, its value is stored once a minute.
func ExampleThrottle() {
	registry := redtask.NewRegistry()
	printer(registry, "sensor/store")
	client, stop := startRunner(registry)
	defer stop()

	for _, value := range []string{"20.1", "20.2", "20.3"} {
		id := must(client.StartWith(ctx, "sensor/store", value, redtask.StartOptions{Once: redtask.Throttle("sensor:7", time.Minute)}))
		must(client.Wait(ctx, id))
	}
	// Output: 20.1
}

// Of each customer one sync runs at a time, of all together two, and the API that they call gets a hundred a second.
func ExampleLimits() {
	var now, most atomic.Int64
	registry := redtask.NewRegistry()
	registry.RegisterWith("customer/sync", redtask.Func(func(context.Context, any) error {
		n := now.Add(1)
		defer now.Add(-1)
		for seen := most.Load(); n > seen && !most.CompareAndSwap(seen, n); seen = most.Load() {
		}
		return nil
	}), redtask.TaskOptions{Limits: redtask.Limits{
		Concurrency: 2, KeyConcurrency: 1, Rate: redtask.Rate{N: 100, Per: time.Second},
	}})
	client, stop := startRunner(registry)
	defer stop()

	var requests []redtask.StartRequest
	for i := range 30 {
		requests = append(requests, redtask.StartRequest{Task: "customer/sync", Options: redtask.StartOptions{Key: fmt.Sprint("customer-", i%3)}})
	}
	must(client.WaitMany(ctx, must(client.StartMany(ctx, requests))))
	fmt.Println(most.Load() <= 2, must(client.Counts(ctx)).Ended)
	// Output: true 30
}

// What happened to an order is told to others in the order in which it happened.
func ExampleStartOptions_ordered() {
	registry := redtask.NewRegistry()
	printer(registry, "order/tell")
	client, stop := startRunner(registry)
	defer stop()

	var requests []redtask.StartRequest
	for _, text := range []string{"placed", "paid", "shipped"} {
		requests = append(requests, redtask.StartRequest{
			Task: "order/tell", Data: text, Options: redtask.StartOptions{Key: "order-7", Ordered: true},
		})
	}
	must(client.WaitMany(ctx, must(client.StartMany(ctx, requests))))
	// Output:
	// placed
	// paid
	// shipped
}

// The tenant of a request, and its trace, travel with the task and on to what that starts.
func ExampleStartOptions_headers() {
	registry := redtask.NewRegistry()
	registry.Register("order/place", redtask.Func(func(ctx context.Context, _ any) error {
		_, err := redtask.FromContext(ctx).Client().StartWith(ctx, "mail/send", nil, redtask.StartOptions{ID: "mail"})
		return err
	}))
	registry.Register("mail/send", redtask.Func(func(ctx context.Context, _ any) error {
		fmt.Println("a mail of", redtask.FromContext(ctx).Headers()["tenant"])
		return nil
	}))
	client, stop := startRunner(registry)
	defer stop()

	must(client.StartWith(ctx, "order/place", nil, redtask.StartOptions{Headers: map[string]string{"tenant": "acme"}}))
	must(client.Wait(ctx, "mail"))
	// Output: a mail of acme
}

// A report at half past two each night, Berlin time. Anyone may look at it, start it now, pause it; the runners need no leader.
func ExampleClient_Cron() {
	registry := redtask.NewRegistry()
	printer(registry, "report/nightly")
	client, stop := startRunner(registry)
	defer stop()

	cron := client.Cron()
	check(cron.Add(ctx, redtask.CronEntry{
		Name: "nightly", Schedule: "30 2 * * *", Zone: "Europe/Berlin", Task: "report/nightly", Data: "sales of the day",
		Missed: redtask.MissedOnce, Overlap: redtask.OverlapSkip,
	}))
	must(client.Wait(ctx, must(cron.Run(ctx, "nightly"))))
	entry := must(cron.Get(ctx, "nightly"))
	fmt.Println(entry.Schedule, entry.NextAt.After(time.Now()))
	check(cron.Pause(ctx, "nightly"))
	fmt.Println(must(cron.Get(ctx, "nightly")).Paused)
	err := cron.Add(ctx, redtask.CronEntry{Name: "bad", Schedule: "0 0 30 2 *", Task: "report/nightly"})
	fmt.Println(errors.Is(err, redtask.ErrInvalid), strings.Contains(err.Error(), "never fires"))
	// Output:
	// sales of the day
	// 30 2 * * * true
	// true
	// true true
}
