// Command worker runs the tasks of tasks.go for the Redis at REDIS_URL, until SIGINT or SIGTERM: then it gives its tasks back, and other
// workers go on with them.
//
//	REDIS_URL=redis://localhost:6379 go run ./examples/worker -queues default,mail=10
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redtask/redtask"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills at once
	err := run(ctx, os.Args[1:], os.Stderr)
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "worker:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, help io.Writer) error {
	options, err := parse(args, help)
	if err != nil {
		return err
	}
	redisOptions, err := redis.ParseURL(cmp.Or(os.Getenv("REDIS_URL"), "redis://localhost:6379"))
	if err != nil {
		return fmt.Errorf("REDIS_URL: %w", err)
	}
	rdb := redis.NewClient(redisOptions)
	defer rdb.Close()
	runner, err := redtask.NewRunner(rdb, registry(), *options)
	if err != nil {
		return err
	}
	slog.Info("runner started", "runner", runner.ID(), "pid", os.Getpid(), "redis", redisOptions.Addr, "queues", options.Queues)
	if err := runner.Run(ctx); err != nil {
		return err
	}
	slog.Info("runner ended", "runner", runner.ID())
	return nil
}

// parse makes the runner's options of the command line.
func parse(args []string, help io.Writer) (*redtask.RunnerOptions, error) {
	flags := flag.NewFlagSet("worker", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // main prints the error, once
	queues := flags.String("queues", redtask.DefaultQueue, "queues to serve: `NAME[=CONCURRENCY],…`")
	concurrency := flags.Int("concurrency", 100, "tasks at once, in each queue that names no other number")
	lease := flags.Duration("lease", 15*time.Second, "how long tasks stay this worker's without a sign of life")
	grace := flags.Duration("grace", time.Second, "how long tasks without Stop may go on at shutdown; 0 for none")
	prefix := flags.String("prefix", redtask.DefaultPrefix, "prefix of all keys")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		flags.SetOutput(help)
		flags.PrintDefaults()
		return nil, err
	} else if err != nil {
		return nil, fmt.Errorf("%w; see -help", err)
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q; see -help", flags.Arg(0))
	}
	named, err := parseQueues(*queues, *concurrency)
	if err != nil {
		return nil, fmt.Errorf("-queues: %w", err)
	}
	options := &redtask.RunnerOptions{Prefix: *prefix, Queues: named, Lease: *lease, Grace: *grace}
	if *grace == 0 {
		options.Grace = redtask.NoGrace
	}
	return options, nil
}

// parseQueues reads `default,mail=50`; a queue without a number gets the usual concurrency.
func parseQueues(text string, usual int) (map[string]int, error) {
	queues := map[string]int{}
	for queue := range strings.SplitSeq(text, ",") {
		name, number, given := strings.Cut(queue, "=")
		if _, twice := queues[name]; twice {
			return nil, fmt.Errorf("queue %q is named twice", name)
		}
		queues[name] = usual
		if given {
			n, err := strconv.Atoi(number)
			if err != nil {
				return nil, fmt.Errorf("%q: %q is not a number", queue, number)
			}
			queues[name] = n
		}
	}
	return queues, nil
}
