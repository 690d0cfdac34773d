// Command http embeds a runner in an HTTP service: the service starts, shows, watches and stops tasks, and runs them as well.
//
//	REDIS_URL=redis://localhost:6379 go run ./examples/http -listen localhost:8080
//	curl -X POST localhost:8080/tasks/example/count -d '{"to":5,"every":"1s"}'    # {"id":"…"}
//	curl localhost:8080/tasks/ID/events
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redtask/redtask"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills at once
	address := flag.String("listen", "localhost:8080", "`address` to serve HTTP on")
	flag.Parse()
	if err := run(ctx, *address); err != nil {
		fmt.Fprintln(os.Stderr, "http:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, address string) error {
	options, err := redis.ParseURL(cmp.Or(os.Getenv("REDIS_URL"), "redis://localhost:6379"))
	if err != nil {
		return fmt.Errorf("REDIS_URL: %w", err)
	}
	rdb := redis.NewClient(options)
	defer rdb.Close()
	// A queue of its own: runners of other services would not know its tasks.
	runner, err := redtask.NewRunner(rdb, registry(), redtask.RunnerOptions{Queues: map[string]int{"counting": 100}})
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	// Streams of events have no end of their own, and Shutdown would wait for them; other requests are finished.
	streams, endStreams := context.WithCancel(ctx)
	defer endStreams()
	server := &http.Server{Handler: routes(streams, runner.Client()), ReadHeaderTimeout: 10 * time.Second}
	serving := make(chan error, 1)
	go func() { serving <- server.Serve(listener) }()

	// The runner outlives the requests: it is told to end when the last one is answered.
	work, endWork := context.WithCancel(context.WithoutCancel(ctx))
	defer endWork()
	working := make(chan error, 1)
	go func() {
		defer close(working)
		working <- runner.Run(work)
	}()
	fmt.Fprintf(os.Stderr, "listening on http://%s\n", listener.Addr())

	select {
	case err = <-serving:
	case err = <-working:
	case <-ctx.Done():
	}
	endStreams()
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	err = errors.Join(err, server.Shutdown(end))
	endWork()
	return errors.Join(err, <-working) // what runs is given back, and goes on elsewhere
}
