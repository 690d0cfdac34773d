// Command worker is the process that chaos kills, freezes and cuts off: a service with a runner and the tasks of tasks.go. Its
// configuration is JSON in the variable CHAOS_WORKER. SIGTERM shuts it down.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/redtask/redtask"
	"github.com/redtask/redtask/builtin"
	"github.com/redtask/redtask/chaos/ledger"
)

// How a worker exits, beside 0.
const (
	exitConfig   = 64 // its configuration makes no sense
	exitLeak     = 65 // goroutines were left
	exitStuck    = 66 // tasks did not return, or Redis could not be told
	exitProtocol = 67 // Redis has another version of the protocol
	exitTask     = 68 // a task ended the process
)

type config struct {
	Addrs     []string          `json:"addrs"`
	Master    string            `json:"master"`   // for Sentinel
	Through   map[string]string `json:"through"`  // address -> where to dial instead
	Prefix    string            `json:"prefix"`   // of the keys
	Ledger    string            `json:"ledger"`   // its directory
	Version   string            `json:"version"`  // "b" knows one more task
	Lease     time.Duration     `json:"lease"`    // ns, like all durations here
	Renew     time.Duration     `json:"renew"`    //
	Margin    time.Duration     `json:"margin"`   //
	Interval  time.Duration     `json:"interval"` // of the monitor
	Capacity  int               `json:"capacity"` // tasks at once
	Recover   int               `json:"recover"`  // recoveries of a task before it is given up
	Retention int               `json:"retention"`
}

// book is the ledger of this process.
var book *ledger.Writer

func main() { os.Exit(run()) }

func run() int {
	if len(os.Args) > 1 && os.Args[1] == "clock" {
		fmt.Println(time.Now().Unix())
		return 0
	}
	go func() { // whoever started this process is gone
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(exitConfig)
	}()
	var c config
	if err := json.Unmarshal([]byte(os.Getenv("CHAOS_WORKER")), &c); err != nil {
		fmt.Fprintln(os.Stderr, "CHAOS_WORKER:", err)
		return exitConfig
	}
	var err error
	if book, err = ledger.Open(c.Ledger); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return exitConfig
	}
	defer func() { _ = book.Close() }()
	book.Add(ledger.Line{Kind: ledger.Up, Heap: heap(), Goroutines: runtime.NumGoroutine()})

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	rdb := connect(&c)
	code := serve(ctx, &c, rdb)
	stop()
	_ = rdb.Close()
	if code != 0 {
		return code
	}
	book.Add(ledger.Line{Kind: ledger.Rest, Heap: heap()})
	err = goleak.Find(goleak.IgnoreAnyFunction("main.run.func1"),
		// It sees only after a second that its pool is closed.
		goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"))
	if err != nil {
		book.Add(ledger.Line{Kind: ledger.Leak, Error: err.Error()})
		return exitLeak
	}
	return 0
}

func serve(ctx context.Context, c *config, rdb redis.UniversalClient) int {
	registry := redtask.NewRegistry()
	register(registry, c.Version)
	runner, err := redtask.NewRunner(rdb, registry, options(c))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return exitConfig
	}
	book.Add(ledger.Line{Kind: ledger.Runner, Runner: runner.ID()})
	gauges, end := context.WithCancel(ctx)
	defer end()
	go gauge(gauges)
	err = runner.Run(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	switch {
	case errors.Is(err, redtask.ErrProtocol):
		return exitProtocol
	case err != nil:
		return exitStuck
	}
	return 0
}

func options(c *config) redtask.RunnerOptions {
	kept := map[redtask.State]builtin.Retention{}
	for _, state := range []redtask.State{redtask.StateEnded, redtask.StateError, redtask.StateException, redtask.StateStopped} {
		kept[state] = builtin.Retention{Age: builtin.Forever, Count: c.Retention}
	}
	return redtask.RunnerOptions{
		Prefix: c.Prefix, Queues: map[string]int{redtask.DefaultQueue: c.Capacity},
		Lease: c.Lease, RenewInterval: c.Renew, SafetyMargin: c.Margin,
		Grace: 300 * time.Millisecond, StuckAfter: time.Second, MaxData: maxData,
		Locals: []redtask.Local{
			builtin.Monitor(builtin.MonitorOptions{
				Interval: c.Interval, MaxRecoveries: c.Recover, FirstDelay: 100 * time.Millisecond, LongestDelay: time.Second,
				StableAfter: 1500 * time.Millisecond,
			}),
			builtin.Cleanup(builtin.CleanupOptions{Interval: time.Second, Retention: kept}),
			builtin.Cron(builtin.CronOptions{}),
		},
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}
}

// connect dials through the world's proxies where there are any. Its patience fits the short lease.
func connect(c *config) redis.UniversalClient {
	dialer := func(ctx context.Context, network, addr string) (net.Conn, error) {
		if proxy := c.Through[addr]; proxy != "" {
			addr = proxy
		}
		return (&net.Dialer{Timeout: time.Second}).DialContext(ctx, network, addr)
	}
	return redis.NewUniversalClient(&redis.UniversalOptions{
		Addrs: c.Addrs, MasterName: c.Master, IsClusterMode: c.Master == "" && len(c.Addrs) > 1, Dialer: dialer, ClientName: "worker",
		DialTimeout: time.Second, ReadTimeout: time.Second, WriteTimeout: time.Second, MaxRetryBackoff: 100 * time.Millisecond,
	})
}

func gauge(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			book.Add(ledger.Line{Kind: ledger.Gauge, N: resident(), Goroutines: runtime.NumGoroutine()})
		}
	}
}

// heap is what lives after a collection, and one more: what lies in a sync.Pool is freed by the second.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(min(stats.HeapAlloc, math.MaxInt64))
}

// resident is the process' RSS in bytes.
func resident() int64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var size, pages int64
	if _, err := fmt.Sscan(string(text), &size, &pages); err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}
