// Command worker runs the tasks of tasks.go for the Redis at REDIS_URL, until SIGINT or SIGTERM: then it gives its tasks back, and other
// workers go on with them.
//
//	REDIS_URL=redis://localhost:6379 go run ./examples/worker -queues default,mail=10
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
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
	if err := run(ctx, os.Args[1:], os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	options, err := parse(args, out)
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
	fmt.Fprintf(out, "worker %s, pid %d: redis %s, queues %v\n", runner.ID(), os.Getpid(), redisOptions.Addr, options.Queues)
	return runner.Run(ctx)
}

// parse makes the runner's options of the command line.
func parse(args []string, out io.Writer) (*redtask.RunnerOptions, error) {
	flags := flag.NewFlagSet("worker", flag.ContinueOnError)
	flags.SetOutput(out)
	queues := flags.String("queues", redtask.DefaultQueue, "queues to serve: `NAME[=CONCURRENCY],…`")
	concurrency := flags.Int("concurrency", 100, "tasks at once, in each queue that names no other number")
	lease := flags.Duration("lease", 15*time.Second, "how long tasks stay this worker's without a sign of life")
	grace := flags.Duration("grace", time.Second, "how long tasks without Stop may go on at shutdown; 0 for none")
	prefix := flags.String("prefix", redtask.DefaultPrefix, "prefix of all keys")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q: see -help", flags.Arg(0))
	}
	options := &redtask.RunnerOptions{Prefix: *prefix, Queues: map[string]int{}, Lease: *lease, Grace: *grace}
	if *grace == 0 {
		options.Grace = redtask.NoGrace
	}
	for _, queue := range strings.Split(*queues, ",") {
		name, number, given := strings.Cut(queue, "=")
		options.Queues[name] = *concurrency
		if given {
			n, err := strconv.Atoi(number)
			if err != nil {
				return nil, fmt.Errorf("-queues: %q: %q is no number", queue, number)
			}
			options.Queues[name] = n
		}
	}
	return options, nil
}
