package redtask_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
	_ "time/tzdata" // for systems without time zones

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/redtask/redtask"
)

// place is a Redis in memory with a client; its runner starts when the example is ready for it.
type place struct {
	client *redtask.Client
	redis  *miniredis.Miniredis

	rdb      *redis.Client
	registry *redtask.Registry
	runner   *redtask.Runner
}

func newPlace(registry *redtask.Registry) *place {
	server := must(miniredis.Run())
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
	return &place{client: must(redtask.NewClient(rdb, redtask.ClientOptions{})), redis: server, rdb: rdb, registry: registry}
}

func (p *place) run(options redtask.RunnerOptions) {
	options.Grace, options.Logger = redtask.NoGrace, slog.New(slog.DiscardHandler)
	p.runner = must(redtask.NewRunner(p.rdb, p.registry, options))
	check(p.runner.Start(ctx))
}

func (p *place) close() {
	check(errors.Join(p.runner.Shutdown(ctx), p.rdb.Close()))
	p.redis.Close()
}

// answers is a web server that answers with these, one after the other.
func answers(texts ...string) func() string {
	next := make(chan string, len(texts))
	for _, text := range texts {
		next <- text
	}
	return func() string { return <-next }
}

func (p *place) now() time.Time { return must(p.rdb.Time(ctx).Result()) }

// written is an entry once it is there and says when it fires after a time.
func written(cron *redtask.Cron, name string, after time.Time) *redtask.CronRecord {
	for {
		entry, err := cron.Get(ctx, name)
		if err == nil && entry.NextAt.After(after) {
			return entry
		}
	}
}

// A server that says when to come back is obeyed, whatever the policy says.
func ExampleRetryAfter() {
	post := answers("429 Too Many Requests", "200 OK")
	registry := redtask.NewRegistry()
	registry.Register("webhook/send", redtask.Func(func(context.Context, string) error {
		if answer := post(); answer != "200 OK" {
			return redtask.RetryAfter(errors.New(answer), 20*time.Millisecond) // in life: its header Retry-After
		}
		return nil
	}))
	client, stop := startRunner(registry)
	defer stop()

	events := must(client.Watch(ctx, "hook"))
	must(client.StartWith(ctx, "webhook/send", "https://example.com/hook", redtask.StartOptions{ID: "hook"}))
	for event := range events {
		if event.Name == redtask.EventScheduled {
			fmt.Println(string(event.Data))
		}
	}
	fmt.Println(must(client.Get(ctx, "hook")).State)
	// Output:
	// {"reason":"retry","attempt":1,"error":"429 Too Many Requests","delay_ms":20}
	// ENDED
}

// What trying again cannot help is not retried.
func ExampleNoRetry() {
	registry := redtask.NewRegistry()
	registry.RegisterWith("webhook/send", redtask.Func(func(_ context.Context, url string) error {
		return redtask.NoRetry(redtask.Failf("%s is gone", url)) // 410: nobody is there any more
	}), redtask.TaskOptions{Retry: &redtask.Retry{Attempts: 5, Failures: true}})
	client, stop := startRunner(registry)
	defer stop()

	id := must(client.Start(ctx, "webhook/send", "https://example.com/hook"))
	record := must(client.Wait(ctx, id))
	fmt.Println(record.Attempt, record.State, record.Error)
	// Output: 1 ERROR https://example.com/hook is gone
}

// Somebody is told of the last failure only.
func ExampleRun_RetryIn() {
	registry := redtask.NewRegistry()
	registry.RegisterWith("webhook/send", redtask.Func(func(context.Context, string) error {
		return errors.New("502 Bad Gateway")
	}), redtask.TaskOptions{Retry: &redtask.Retry{Attempts: 3, Backoff: redtask.Constant(time.Millisecond)}})
	place := newPlace(registry)
	place.run(redtask.RunnerOptions{OnException: []redtask.ExceptionHandler{
		func(_ context.Context, run *redtask.Run, err error) {
			if in, again := run.RetryIn(); again {
				fmt.Printf("attempt %d: %v; again in %s\n", run.Attempt(), err, in)
				return
			}
			fmt.Println("page somebody:", run.Task(), err)
		},
	}})
	defer place.close()

	id := must(place.client.Start(ctx, "webhook/send", "https://example.com/hook"))
	fmt.Println(must(place.client.Wait(ctx, id)).State)
	// Output:
	// attempt 1: 502 Bad Gateway; again in 1ms
	// attempt 2: 502 Bad Gateway; again in 1ms
	// page somebody: webhook/send 502 Bad Gateway
	// EXCEPTION
}

// A deadline is for all attempts together: here it is past before the first one.
func ExampleStartOptions_deadline() {
	registry := redtask.NewRegistry()
	registry.Register("auction/bid", redtask.Func(func(context.Context, int) error {
		fmt.Println("a bid")
		return nil
	}))
	client, stop := startRunner(registry)
	defer stop()

	closing := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	id := must(client.StartWith(ctx, "auction/bid", 100, redtask.StartOptions{Deadline: closing}))
	record := must(client.Wait(ctx, id))
	fmt.Printf("%s: %s\n", record.State, record.Error)
	// Output: EXCEPTION: redtask: the task's deadline is past since 2026-01-01T12:00:00Z
}

// A code to log in with is of no use an hour later: if the workers were away, it is not sent any more.
func ExampleStartOptions_expiry() {
	registry := redtask.NewRegistry()
	registry.Register("sms/code", redtask.Func(func(_ context.Context, code string) error {
		fmt.Println("sent", code)
		return nil
	}))
	place := newPlace(registry)
	id := must(place.client.StartWith(ctx, "sms/code", "1234", redtask.StartOptions{Expiry: time.Minute}))
	place.redis.SetTime(time.Now().Add(time.Hour)) // no worker was there
	place.run(redtask.RunnerOptions{})
	defer place.close()

	record := must(place.client.Wait(ctx, id))
	fmt.Printf("%s: %s\n", record.State, record.Error)
	// Output: EXCEPTION: redtask: the task waited longer than its expiry, and was not run
}

// A reminder, a day before the appointment.
func ExampleStartOptions_at() {
	appointment := time.Date(2200, 5, 4, 9, 30, 0, 0, time.UTC)
	client, stop := startRunner(redtask.NewRegistry())
	defer stop()

	id := must(client.StartWith(ctx, "mail/remind", "ada@example.com", redtask.StartOptions{At: appointment.AddDate(0, 0, -1)}))
	record := must(client.Get(ctx, id))
	fmt.Println(record.State, record.DueAt.UTC().Format(time.DateTime))
	check(client.Stop(ctx, id)) // the appointment is off
	fmt.Println(must(client.Get(ctx, id)).State)
	// Output:
	// SCHEDULED 2200-05-03 09:30:00
	// STOPPED
}

// Entries may be declared where the tasks are: each runner writes them when it starts. A day on the clock of this Redis lets one fire.
func ExampleRunnerOptions_cron() {
	fired := make(chan string)
	registry := redtask.NewRegistry()
	registry.Register("report/daily", redtask.Func(func(ctx context.Context, _ any) error {
		fired <- redtask.FromContext(ctx).ID()
		return nil
	}))
	place := newPlace(registry)
	place.redis.SetTime(time.Date(2026, 3, 28, 12, 0, 0, 0, time.UTC))
	place.run(redtask.RunnerOptions{Cron: []redtask.CronEntry{
		{Name: "nightly", Schedule: "30 2 * * *", Zone: "Europe/Berlin", Task: "report/daily"},
	}})
	defer place.close()

	for range 2 {
		entry := written(place.client.Cron(), "nightly", place.now())
		place.redis.SetTime(entry.NextAt)
		place.redis.Publish("redtask:{default}:control:", "due 1") // no clock of a server jumps like that
		id := <-fired
		must(place.client.Wait(ctx, id)) // a time that finds the last run under way is left out
		fmt.Println(id)
	}
	// Output:
	// nightly@2026-03-29T01:30:00.000Z
	// nightly@2026-03-30T00:30:00.000Z
}

// Mails with a link to set a new password go before a newsletter that was started earlier.
func ExamplePriority() {
	registry := redtask.NewRegistry()
	registry.Register("mail/send", redtask.Func(func(_ context.Context, mail string) error {
		fmt.Println(mail)
		return nil
	}))
	place := newPlace(registry)
	ids := must(place.client.StartMany(ctx, []redtask.StartRequest{
		{Task: "mail/send", Data: "newsletter", Options: redtask.StartOptions{Priority: redtask.PriorityLow}},
		{Task: "mail/send", Data: "receipt"},
		{Task: "mail/send", Data: "new password", Options: redtask.StartOptions{Priority: redtask.PriorityHigh}},
	}))
	place.run(redtask.RunnerOptions{Queues: map[string]int{"default": 1}})
	defer place.close()

	must(place.client.WaitMany(ctx, ids))
	// Output:
	// new password
	// receipt
	// newsletter
}

// One sync for each customer at a time; those of other customers are not held up.
func ExampleLimits_key() {
	running, finish := make(chan string, 1), make(chan struct{})
	registry := redtask.NewRegistry()
	registry.RegisterWith("crm/sync", redtask.Func(func(ctx context.Context, long bool) error {
		if long {
			running <- redtask.FromContext(ctx).Key()
			<-finish
		}
		return nil
	}), redtask.TaskOptions{Limits: redtask.Limits{Concurrency: 20, KeyConcurrency: 1}})
	client, stop := startRunner(registry)
	defer stop()

	sync := func(customer string, long bool) string {
		return must(client.StartWith(ctx, "crm/sync", long, redtask.StartOptions{Key: customer}))
	}
	first := sync("acme", true)
	fmt.Println(<-running, "runs")
	second := sync("acme", false)
	other := sync("globex", false)
	fmt.Println("globex", must(client.Wait(ctx, other)).State)
	held := must(client.Get(ctx, second))
	fmt.Println("acme again", held.State, "held by", held.HeldBy)
	close(finish)
	for _, record := range must(client.WaitMany(ctx, []string{first, second})) {
		fmt.Println(record.Key, record.State)
	}
	// Output:
	// acme runs
	// globex ENDED
	// acme again WAIT held by crm/sync:acme
	// acme ENDED
	// acme ENDED
}

// A service of others takes two requests an hour, from all workers together.
func ExampleRate() {
	registry := redtask.NewRegistry()
	registry.RegisterWith("geo/locate", redtask.Func(func(_ context.Context, address string) error {
		fmt.Println("locate", address)
		return nil
	}), redtask.TaskOptions{Limits: redtask.Limits{Rate: redtask.Rate{N: 2, Per: time.Hour}}})
	registry.Register("app/other", redtask.Func(func(context.Context, any) error { return nil }))
	client, stop := startRunner(registry)
	defer stop()

	for _, address := range []string{"Main St 1", "Main St 2"} {
		must(client.Wait(ctx, must(client.Start(ctx, "geo/locate", address))))
	}
	third := must(client.Start(ctx, "geo/locate", "Main St 3"))
	must(client.Wait(ctx, must(client.Start(ctx, "app/other", nil)))) // is not held up
	fmt.Println(must(client.Get(ctx, third)).State, must(client.Counts(ctx)).Held)
	// Output:
	// locate Main St 1
	// locate Main St 2
	// WAIT 1
}
