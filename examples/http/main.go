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
	runner, err := redtask.NewRunner(rdb, registry(), redtask.RunnerOptions{})
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	if err := runner.Start(ctx); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "listening on http://%s\n", listener.Addr())
	// Requests that stream events end with ctx; Shutdown would wait for them.
	server := &http.Server{
		Handler: routes(runner.Client()), BaseContext: func(net.Listener) context.Context { return ctx }, ReadHeaderTimeout: 10 * time.Second,
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	// First no more requests, then no more tasks: what runs is given back, and goes on elsewhere.
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	return errors.Join(err, server.Shutdown(end), runner.Shutdown(end))
}
