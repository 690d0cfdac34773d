// Command quickstart shows the life of tasks. It needs nothing: without REDIS_URL it brings a Redis of its own, in memory.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/redtask/redtask"
)

type clock struct{ Every string } // data of demo/clock

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	rdb := redis.NewClient(redisOptions())

	// 1. Tasks are functions, or types with Init and Start, under a name.
	registry := redtask.NewRegistry()
	registry.Register("demo/hello", redtask.FuncOut(func(_ context.Context, name string) (string, error) { return "hello " + name, nil }))
	registry.Register("demo/fail", redtask.Func(func(context.Context, any) error { return redtask.Failf("no coffee") }))
	registry.Register("demo/panic", redtask.Func(func(context.Context, any) error { panic("out of beans") }))
	registry.Register("demo/clock", redtask.Func(func(ctx context.Context, in clock) error {
		every, err := time.ParseDuration(in.Every)
		for n := 1; err == nil && ctx.Err() == nil; n++ {
			err = redtask.FromContext(ctx).Emit("tick", fmt.Sprintf("%d, every %s", n, in.Every))
			select {
			case <-time.After(every):
			case <-ctx.Done():
			}
		}
		return err
	}))

	// 2. A runner takes tasks from Redis and runs them.
	runner := must(redtask.NewRunner(rdb, registry, redtask.RunnerOptions{Prefix: "quickstart", Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}))
	check(runner.Start(ctx))

	// 3. Anyone can watch, start, reload and stop them: from Go as here, or with redis-cli.
	client := runner.Client()
	events := must(client.WatchQueue(ctx))
	long := must(client.Start(ctx, "demo/clock", clock{Every: "300ms"}))
	must(client.Start(ctx, "demo/hello", "world"))
	must(client.Start(ctx, "demo/fail", nil))
	must(client.Start(ctx, "demo/panic", nil))
	time.AfterFunc(time.Second, func() { check(client.ReloadWith(ctx, long, clock{Every: "100ms"})) })
	time.AfterFunc(1500*time.Millisecond, func() { check(client.Stop(ctx, long)) })
	for event := range events {
		fmt.Printf("%s  %-15s %-9s %s\n", event.Time().Format("15:04:05.000"), event.Task, event.Event, event.Data)
		if event.ID == long && event.Event == redtask.EventStopped {
			break
		}
	}
	check(runner.Shutdown(ctx))
}

func redisOptions() *redis.Options {
	if url := os.Getenv("REDIS_URL"); url != "" {
		return must(redis.ParseURL(url))
	}
	return &redis.Options{Addr: must(miniredis.Run()).Addr()}
}

func must[T any](value T, err error) T { check(err); return value }

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
