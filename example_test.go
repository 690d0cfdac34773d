package redtask_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/redtask/redtask"
)

var ctx = context.Background()

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func check(err error) { must(0, err) }

// startRunner runs the registered tasks on a Redis in memory, and returns a client. The function ends both.
func startRunner(registry *redtask.Registry) (*redtask.Client, func()) {
	server := must(miniredis.Run())
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
	options := redtask.RunnerOptions{Grace: redtask.NoGrace, Logger: slog.New(slog.DiscardHandler)}
	runner := must(redtask.NewRunner(rdb, registry, options))
	check(runner.Start(ctx))
	return runner.Client(), func() {
		check(errors.Join(runner.Shutdown(ctx), rdb.Close()))
		server.Close()
	}
}

// The whole way: register a task, run it, start it by its name, wait for its end.
func Example() {
	server, err := miniredis.Run() // in place of a Redis server
	if err != nil {
		panic(err)
	}
	defer server.Close()
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer rdb.Close()

	registry := redtask.NewRegistry()
	registry.Register("example/greet", redtask.FuncOut(func(_ context.Context, name string) (string, error) {
		return "hello, " + name, nil
	}))
	runner, err := redtask.NewRunner(rdb, registry, redtask.RunnerOptions{})
	if err != nil {
		panic(err)
	}
	if err := runner.Start(ctx); err != nil {
		panic(err)
	}
	client, err := redtask.NewClient(rdb, redtask.ClientOptions{})
	if err != nil {
		panic(err)
	}
	id, err := client.Start(ctx, "example/greet", "ada")
	if err != nil {
		panic(err)
	}
	record, err := client.Wait(ctx, id)
	if err != nil {
		panic(err)
	}
	fmt.Println(record.State, string(record.Output))
	if err := runner.Shutdown(ctx); err != nil {
		panic(err)
	}
	// Output: ENDED "hello, ada"
}

func ExampleFunc() {
	type Mail struct{ To, Subject string }
	registry := redtask.NewRegistry()
	registry.Register("mail/send", redtask.Func(func(_ context.Context, mail Mail) error {
		fmt.Printf("to %s: %s\n", mail.To, mail.Subject)
		return nil
	}))
	client, stop := startRunner(registry)
	defer stop()

	id := must(client.Start(ctx, "mail/send", Mail{To: "ada@example.com", Subject: "news"}))
	fmt.Println(must(client.Wait(ctx, id)).State)
	// Data that does not fit the type is an EXCEPTION.
	id = must(client.Start(ctx, "mail/send", "no mail"))
	record := must(client.Wait(ctx, id))
	fmt.Println(record.State, record.Error != "")
	// Output:
	// to ada@example.com: news
	// ENDED
	// EXCEPTION true
}

func ExampleFuncOut() {
	registry := redtask.NewRegistry()
	registry.Register("math/add", redtask.FuncOut(func(_ context.Context, pair [2]int) (int, error) {
		return pair[0] + pair[1], nil
	}))
	client, stop := startRunner(registry)
	defer stop()

	id := must(client.Start(ctx, "math/add", [2]int{2, 4}))
	var sum int
	check(must(client.Wait(ctx, id)).DecodeOutput(&sum))
	fmt.Println(sum)
	// Output: 6
}

func ExampleFail() {
	registry := redtask.NewRegistry()
	registry.Register("shop/charge", redtask.Func(func(_ context.Context, cents int) error {
		if cents <= 0 {
			return redtask.Failf("cannot charge %d cents", cents) // foreseen: ERROR
		}
		return errors.New("the card reader is on fire") // unforeseen: EXCEPTION
	}))
	client, stop := startRunner(registry)
	defer stop()

	for _, cents := range []int{0, 100} {
		record := must(client.Wait(ctx, must(client.Start(ctx, "shop/charge", cents))))
		fmt.Printf("%s: %s\n", record.State, record.Error)
	}
	// Output:
	// ERROR: cannot charge 0 cents
	// EXCEPTION: the card reader is on fire
}

func ExampleClient_Start() {
	registry := redtask.NewRegistry()
	registry.Register("example/shout", redtask.FuncOut(func(_ context.Context, text string) (string, error) {
		return text + "!", nil
	}))
	client, stop := startRunner(registry)
	defer stop()

	id := must(client.Start(ctx, "example/shout", "hey"))
	record := must(client.Wait(ctx, id)) // bound the wait with a ctx that ends
	fmt.Println(record.ID == id, record.Task, record.State, string(record.Output))
	// Output: true example/shout ENDED "hey!"
}

func ExampleClient_Watch() {
	registry := redtask.NewRegistry()
	registry.Register("example/count", redtask.Func(func(ctx context.Context, to int) error {
		for i := range to {
			if err := redtask.FromContext(ctx).Emit("tick", i+1); err != nil {
				return err
			}
		}
		return nil
	}))
	client, stop := startRunner(registry)
	defer stop()

	// With an ID of one's own the watch can begin before the task: nothing is missed.
	events := must(client.Watch(ctx, "42"))
	must(client.StartWith(ctx, "example/count", 2, redtask.StartOptions{ID: "42"}))
	for event := range events {
		fmt.Println(event.Seq, event.Name)
	}
	// Output:
	// 1 running
	// 2 tick
	// 3 tick
	// 4 ended
}

func ExampleClient_Stop() {
	registry := redtask.NewRegistry()
	registry.Register("feed/follow", redtask.Func(func(ctx context.Context, feed string) error {
		if err := redtask.FromContext(ctx).Emit("follows", feed); err != nil {
			return err
		}
		<-ctx.Done()
		fmt.Println(feed+":", context.Cause(ctx))
		return ctx.Err() // as told
	}))
	client, stop := startRunner(registry)
	defer stop()

	events := must(client.Watch(ctx, "news"))
	must(client.StartWith(ctx, "feed/follow", "news", redtask.StartOptions{ID: "news"}))
	for event := range events {
		if event.Name == "follows" { // told to stop before that, it might not even begin
			check(client.Stop(ctx, event.ID))
		}
	}
	fmt.Println(must(client.Get(ctx, "news")).State)
	// Output:
	// news: redtask: the task was told to stop
	// STOPPED
}

// What a task read from elsewhere, Reload makes it read again: a new instance takes over from the old one.
func ExampleClient_Reload() {
	var settings atomic.Value
	settings.Store("blue")
	registry := redtask.NewRegistry()
	registry.Register("lamp/shine", redtask.Func(func(ctx context.Context, _ any) error {
		if err := redtask.FromContext(ctx).Emit("shines", settings.Load()); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	}))
	client, stop := startRunner(registry)
	defer stop()

	events := must(client.Watch(ctx, "lamp"))
	must(client.StartWith(ctx, "lamp/shine", nil, redtask.StartOptions{ID: "lamp"}))
	for event := range events {
		if event.Name != "shines" {
			continue
		}
		fmt.Println(string(event.Data))
		if settings.CompareAndSwap("blue", "red") {
			check(client.Reload(ctx, "lamp"))
		} else {
			check(client.Stop(ctx, "lamp"))
		}
	}
	// Output:
	// "blue"
	// "red"
}

func ExampleClient_ReloadWith() {
	type Settings struct{ Interval string }
	registry := redtask.NewRegistry()
	registry.Register("feed/poll", redtask.Func(func(ctx context.Context, s Settings) error {
		if err := redtask.FromContext(ctx).Emit("polls every", s.Interval); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	}))
	client, stop := startRunner(registry)
	defer stop()

	events := must(client.Watch(ctx, "poll"))
	must(client.StartWith(ctx, "feed/poll", Settings{"1m"}, redtask.StartOptions{ID: "poll"}))
	for event := range events {
		if event.Name != "polls every" {
			continue
		}
		fmt.Println(event.Name, string(event.Data))
		if string(event.Data) == `"1m"` {
			check(client.ReloadWith(ctx, "poll", Settings{"5s"}))
		} else {
			check(client.Stop(ctx, "poll"))
		}
	}
	fmt.Println(string(must(client.Get(ctx, "poll")).Data))
	// Output:
	// polls every "1m"
	// polls every "5s"
	// {"Interval":"5s"}
}

func ExampleRun_Emit() {
	type Page struct{ Number, Lines int }
	registry := redtask.NewRegistry()
	registry.Register("print/document", redtask.Func(func(ctx context.Context, pages int) error {
		run := redtask.FromContext(ctx)
		for n := range pages {
			if err := run.Emit("page", Page{Number: n + 1, Lines: 60}); err != nil {
				return err
			}
		}
		return nil
	}))
	client, stop := startRunner(registry)
	defer stop()

	events := must(client.Watch(ctx, "doc"))
	must(client.StartWith(ctx, "print/document", 2, redtask.StartOptions{ID: "doc"}))
	for event := range events {
		if event.Name != "page" {
			continue
		}
		var page Page
		check(event.Decode(&page))
		fmt.Println(page.Number, page.Lines)
	}
	// Output:
	// 1 60
	// 2 60
}

// A task that begins again goes on where the last checkpoint was, whatever ended the run before.
func ExampleRun_Checkpoint() {
	var away atomic.Bool
	away.Store(true)
	registry := redtask.NewRegistry()
	registry.Register("import/rows", redtask.Func(func(ctx context.Context, rows int) error {
		run := redtask.FromContext(ctx)
		done := 0
		if _, err := run.LoadCheckpoint(ctx, &done); err != nil {
			return err
		}
		for done < rows {
			done++
			fmt.Println("row", done)
			if err := run.Checkpoint(ctx, done); err != nil {
				return err
			}
			if done == 2 && away.CompareAndSwap(true, false) {
				return redtask.Failf("the source went away")
			}
		}
		return nil
	}))
	client, stop := startRunner(registry)
	defer stop()

	id := must(client.Start(ctx, "import/rows", 3))
	fmt.Println(must(client.Wait(ctx, id)).State)
	check(client.Restart(ctx, id)) // with the same data
	fmt.Println(must(client.Wait(ctx, id)).State)
	// Output:
	// row 1
	// row 2
	// ERROR
	// row 3
	// ENDED
}

func ExampleRunner_Run() {
	server := must(miniredis.Run())
	defer server.Close()
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer rdb.Close()
	running := make(chan struct{})
	registry := redtask.NewRegistry()
	registry.Register("feed/follow", redtask.Func(func(ctx context.Context, _ any) error {
		close(running)
		<-ctx.Done()
		return ctx.Err()
	}))
	runner := must(redtask.NewRunner(rdb, registry, redtask.RunnerOptions{Grace: redtask.NoGrace}))
	id := must(runner.Client().Start(ctx, "feed/follow", nil))

	// In a program: ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		<-running
		cancel()
	}()
	fmt.Println(runner.Run(ctx))

	// The task is back in line, for the next runner.
	record := must(runner.Client().Get(context.Background(), id))
	fmt.Println(record.State, record.Attempt)
	// Output:
	// <nil>
	// WAIT 0
}

type tenantKey struct{}

// report is a task that needs its tenant's data in the context.
type report struct{ title string }

func (r *report) ProvideContext(ctx context.Context) (context.Context, func(), error) {
	fmt.Println("open tenant")
	return context.WithValue(ctx, tenantKey{}, "acme"), func() { fmt.Println("close tenant") }, nil
}

func (r *report) Init(_ context.Context, data json.RawMessage) error {
	return json.Unmarshal(data, &r.title)
}

func (r *report) Start(ctx context.Context) error {
	fmt.Println(r.title, "for", ctx.Value(tenantKey{}))
	return nil
}

func ExampleContextProvider() {
	registry := redtask.NewRegistry()
	registry.Register("report/make", func() redtask.Task { return &report{} })
	client, stop := startRunner(registry)
	defer stop()

	id := must(client.Start(ctx, "report/make", "turnover"))
	fmt.Println(must(client.Wait(ctx, id)).State)
	// Output:
	// open tenant
	// turnover for acme
	// close tenant
	// ENDED
}

// A bad deploy: tasks failed by the hundred, and are to run again once it is mended.
func ExampleClient_RetryMany() {
	var mended atomic.Bool
	registry := redtask.NewRegistry()
	registry.Register("mail/send", redtask.Func(func(context.Context, string) error {
		if !mended.Load() {
			return errors.New("no template named welcome")
		}
		return nil
	}))
	client, stop := startRunner(registry)
	defer stop()
	ids := must(client.StartMany(ctx, slices.Repeat([]redtask.StartRequest{{Task: "mail/send", Data: "ada@example.com"}}, 200)))
	for _, id := range ids {
		must(client.Wait(ctx, id))
	}

	mended.Store(true)
	done := must(client.RetryMany(ctx, redtask.Filter{State: redtask.StateException, Task: "mail/*", Error: "no template"}))
	fmt.Println("run again:", done.Done)
	for _, id := range ids {
		must(client.Wait(ctx, id))
	}
	fmt.Println("ended:", must(client.Counts(ctx)).Ended)
	// Output:
	// run again: 200
	// ended: 200
}

func ExampleClient_Retry() {
	registry := redtask.NewRegistry()
	registry.Register("report/make", redtask.FuncOut(func(_ context.Context, month string) (string, error) {
		return "report of " + month, nil
	}))
	client, stop := startRunner(registry)
	defer stop()

	id := must(client.StartWith(ctx, "report/make", "May", redtask.StartOptions{In: 24 * time.Hour}))
	check(client.Retry(ctx, id)) // it need not wait for tomorrow
	fmt.Println(string(must(client.Wait(ctx, id)).Output))
	// Output: "report of May"
}
