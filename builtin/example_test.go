package builtin_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/redtask/redtask"
	"github.com/redtask/redtask/builtin"
)

// runWithin runs a task to its end on a Redis in memory, within middleware.
func runWithin(middleware redtask.Middleware, logger *slog.Logger, factory redtask.Factory) *redtask.Record {
	server := must(miniredis.Run())
	defer server.Close()
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer rdb.Close()
	registry := redtask.NewRegistry()
	registry.Register("example/task", factory)
	runner := must(redtask.NewRunner(rdb, registry, redtask.RunnerOptions{Middleware: []redtask.Middleware{middleware}, Logger: logger}))
	ctx := context.Background()
	must(0, runner.Start(ctx))
	record := must(runner.Client().Wait(ctx, must(runner.Client().Start(ctx, "example/task", nil))))
	must(0, runner.Shutdown(ctx))
	return record
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// In production one may want to see only the runs that failed.
func ExampleLogging() {
	logger := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{
		Level: slog.LevelWarn,
		ReplaceAttr: func(_ []string, attribute slog.Attr) slog.Attr { // what is the same each time
			if slices.Contains([]string{"time", "queue", "runner", "id", "epoch", "duration"}, attribute.Key) {
				return slog.Attr{}
			}
			return attribute
		},
	}))
	runWithin(builtin.Logging(builtin.LoggingOptions{}), logger, redtask.Func(func(context.Context, any) error {
		return redtask.Failf("no milk")
	}))
	// Output: level=WARN msg="task returned" task=example/task attempt=1 outcome=ERROR error="no milk"
}

func ExampleTimeout() {
	record := runWithin(builtin.Timeout(20*time.Millisecond), slog.New(slog.DiscardHandler), redtask.Func(func(ctx context.Context, _ any) error {
		<-ctx.Done()
		fmt.Println(context.Cause(ctx))
		return ctx.Err()
	}))
	fmt.Println(record.State)
	// Output:
	// redtask: the task ran longer than its timeout
	// EXCEPTION
}
