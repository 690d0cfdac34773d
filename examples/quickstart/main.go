// Command quickstart shows the life of tasks. It needs nothing: without REDIS_URL it brings a Redis of its own, in memory.
package main

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/redtask/redtask"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	url := os.Getenv("REDIS_URL")
	if url == "" {
		url = "redis://" + must(miniredis.Run()).Addr()
	}
	rdb := redis.NewClient(must(redis.ParseURL(url)))

	// 1. Tasks are functions, or types with Init and Start, under a name.
	registry := redtask.NewRegistry()
	registry.Register("demo/hello", redtask.FuncOut(func(_ context.Context, name string) (string, error) { return "hello " + name, nil }))
	registry.Register("demo/fail", redtask.Func(func(context.Context, any) error { return redtask.Failf("no coffee") }))
	registry.Register("demo/panic", redtask.Func(func(context.Context, any) error { panic("out of beans") }))
	registry.Register("demo/clock", redtask.Func(func(ctx context.Context, ms int) (err error) {
		for n := 1; err == nil && ctx.Err() == nil; n++ { // ctx ends when the task is told to stop
			err = redtask.FromContext(ctx).Emit("tick", fmt.Sprintf("%d, every %d ms", n, ms))
			select {
			case <-time.After(time.Duration(ms) * time.Millisecond):
			case <-ctx.Done():
			}
		}
		return err
	}))

	// 2. A runner takes tasks from Redis and runs them. A client starts, watches, reloads and stops them, from any process.
	runner := must(redtask.NewRunner(rdb, registry, redtask.RunnerOptions{Prefix: "quickstart", Logger: slog.New(slog.DiscardHandler)}))
	client := runner.Client()
	events := must(client.WatchQueue(ctx))
	ids := must(client.StartMany(ctx, []redtask.StartRequest{
		{Task: "demo/clock", Data: 300}, {Task: "demo/hello", Data: "world"}, {Task: "demo/fail"}, {Task: "demo/panic"}}))
	check(runner.Start(ctx))

	// 3. Each change of state is an event, and so is what tasks emit. The clock would run for ever: it gets new data, and is stopped.
	fmt.Printf("%-12s  %-11s %-10s %s\n", "TIME", "TASK", "EVENT", "DATA")
	for event := range events {
		if slices.Contains(ids, event.ID) {
			fmt.Printf("%s  %-11s %-10s %s\n", event.Time().Format("15:04:05.000"), event.Task, event.Name, event.Data)
		}
		switch string(event.Data) {
		case `"3, every 300 ms"`:
			fmt.Println("              --> client.ReloadWith(ctx, id, 100)")
			check(client.ReloadWith(ctx, ids[0], 100))
		case `"5, every 100 ms"`:
			fmt.Println("              --> client.Stop(ctx, id)")
			check(client.Stop(ctx, ids[0]))
		}
		if event.ID == ids[0] && event.Name == redtask.EventStopped {
			break
		}
	}
	check(runner.Shutdown(ctx))
}

func must[T any](value T, err error) T { check(err); return value }

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
