package redtask

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask/internal/redistest"
)

var benchConcurrencies = []int{1, 10, 100, 1000}

// BenchmarkStart measures tasks put in line by a number of goroutines, one Start each at a time.
func BenchmarkStart(b *testing.B) {
	for _, n := range benchConcurrencies {
		b.Run(fmt.Sprintf("goroutines=%d", n), func(b *testing.B) {
			e := benchEnv(b)
			client := e.client(b)
			_, err := client.Start(b.Context(), "bench/nothing", nil)
			require.NoError(b, err)
			before := serverStats(b, e.rdb)
			b.ResetTimer()
			var left atomic.Int64
			left.Store(int64(b.N))
			var wg sync.WaitGroup
			for range n {
				wg.Go(func() {
					for left.Add(-1) >= 0 {
						if _, err := client.Start(context.Background(), "bench/nothing", nil); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			report(b, e.rdb, before)
		})
	}
}

// BenchmarkStartMany measures tasks put in line in bulk, 1,000 a call.
func BenchmarkStartMany(b *testing.B) {
	e := benchEnv(b)
	client := e.client(b)
	before := serverStats(b, e.rdb)
	b.ResetTimer()
	fill(b, client, b.N)
	report(b, e.rdb, before)
}

// BenchmarkDrain measures tasks that do nothing, run by one runner, from a full line to the last written end.
func BenchmarkDrain(b *testing.B) {
	for _, n := range benchConcurrencies {
		b.Run(fmt.Sprintf("concurrency=%d", n), func(b *testing.B) {
			e := benchEnv(b)
			fill(b, e.client(b), b.N)
			done := make(chan struct{})
			var left atomic.Int64
			left.Store(int64(b.N))
			registry := NewRegistry()
			registry.Register("bench/nothing", Func(func(context.Context, any) error {
				if left.Add(-1) == 0 {
					close(done)
				}
				return nil
			}))
			runner, err := NewRunner(e.rdb, registry, RunnerOptions{
				Prefix: e.prefix, Queues: map[string]int{"default": n}, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)), Locals: []Local{},
			})
			require.NoError(b, err)
			before := serverStats(b, e.rdb)
			b.ResetTimer()
			require.NoError(b, runner.Start(b.Context()))
			<-done
			require.NoError(b, runner.Shutdown(context.Background())) // the last ends are written
			report(b, e.rdb, before)
			require.EqualValues(b, b.N, e.rdb.ZCard(b.Context(), e.key("final:ENDED")).Val())
		})
	}
}

func benchEnv(b *testing.B) *env {
	b.Helper()
	server := redistest.Start(b)
	return newEnv(b, server.Addr, nil)
}

func fill(b *testing.B, client *Client, n int) {
	b.Helper()
	requests := make([]StartRequest, 0, 1000)
	for n > 0 {
		requests = requests[:0]
		for range min(n, 1000) {
			requests = append(requests, StartRequest{Task: "bench/nothing", Data: json.RawMessage(`{"i":123456,"text":"hello world"}`)})
		}
		n -= len(requests)
		_, err := client.StartMany(b.Context(), requests)
		require.NoError(b, err)
	}
}

// stats are a server's counters. Calls made by a script count as commands; those that crossed the network are trips.
type stats struct{ commands, trips, cpu float64 }

var callsPattern = regexp.MustCompile(`cmdstat_(evalsha|blmove):calls=(\d+)`)

func serverStats(b *testing.B, rdb *redis.Client) stats {
	b.Helper()
	info, err := rdb.InfoMap(b.Context(), "stats", "cpu").Result()
	require.NoError(b, err)
	parse := func(section, field string) float64 {
		value, err := strconv.ParseFloat(info[section][field], 64)
		require.NoError(b, err, field)
		return value
	}
	s := stats{
		commands: parse("Stats", "total_commands_processed"),
		cpu:      parse("CPU", "used_cpu_user") + parse("CPU", "used_cpu_sys"),
	}
	text, err := rdb.Info(b.Context(), "commandstats").Result()
	require.NoError(b, err)
	for _, match := range callsPattern.FindAllStringSubmatch(text, -1) {
		calls, err := strconv.ParseFloat(match[2], 64)
		require.NoError(b, err)
		s.trips += calls
	}
	return s
}

func report(b *testing.B, rdb *redis.Client, before stats) {
	b.Helper()
	b.StopTimer()
	after := serverStats(b, rdb)
	n := float64(b.N)
	b.ReportMetric(n/b.Elapsed().Seconds(), "tasks/s")
	b.ReportMetric((after.commands-before.commands)/n, "redis-cmds/task")
	b.ReportMetric((after.trips-before.trips)/n, "round-trips/task")
	b.ReportMetric((after.cpu-before.cpu)*1e6/n, "redis-cpu-µs/task")
}
