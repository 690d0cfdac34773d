package store

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask/internal/redistest"
)

// BenchmarkCommit measures what the steady state costs Redis: each call ends the tasks that the one before claimed, and claims as many.
func BenchmarkCommit(b *testing.B) {
	for _, size := range []int{1, 5, 10, 32, MaxBatch} {
		b.Run(fmt.Sprintf("tasks=%d", size), func(b *testing.B) {
			rdb := redis.NewClient(&redis.Options{Addr: redistest.Start(b).Addr})
			defer rdb.Close()
			q := New(rdb, "redtask").Queue("default")
			ctx := context.Background()
			_, _, err := q.Register(ctx, &RunnerInfo{ID: "runner-of-bench", Lease: 1 << 40})
			require.NoError(b, err)
			fillLine(b, q, b.N)
			before := redisCPU(b, rdb)
			b.ResetTimer()
			var claims []Claim
			for number, left := int64(1), b.N; left > 0 || len(claims) > 0; number++ {
				batch := &Batch{Number: number, Claim: min(size, left)}
				for i := range claims {
					c := &claims[i]
					event := fmt.Sprintf(`"data":null,"id":%q,"task":%q,"epoch":%d,"seq":2,"at":1795487576321}`, c.ID, c.Task, c.Epoch)
					batch.Emit(c.ID, fmt.Sprintf(`{"event":"running","data":{"attempt":1,"runner":"runner-of-bench"},"id":%q,"task":%q,"epoch":%d,"seq":1,"at":1795487576320}`, c.ID, c.Task, c.Epoch))
					batch.Leave(c.ID, Member(c.Epoch, c.ID), &Leave{State: "ENDED", Event: event})
				}
				result, err := q.Commit(ctx, "runner-of-bench", batch)
				require.NoError(b, err)
				claims = result.Claims
				left -= len(claims)
			}
			b.StopTimer()
			b.ReportMetric((redisCPU(b, rdb)-before)*1e6/float64(b.N), "redis-cpu-µs/task")
			require.EqualValues(b, b.N, rdb.ZCard(ctx, q.keys.final("ENDED")).Val())
		})
	}
}

func fillLine(b *testing.B, q *Queue, n int) {
	b.Helper()
	for from := 0; from < n; from += 128 {
		var tasks []NewTask
		for i := from; i < min(n, from+128); i++ {
			tasks = append(tasks, NewTask{ID: fmt.Sprintf("abcdefgh%07d", i), Task: "bench/nothing", Data: fmt.Sprintf(`{"i":%d,"text":"hello world"}`, i)})
		}
		_, err := q.Start(b.Context(), tasks)
		require.NoError(b, err)
	}
}

func redisCPU(b *testing.B, rdb *redis.Client) float64 {
	b.Helper()
	info, err := rdb.Info(b.Context(), "cpu").Result()
	require.NoError(b, err)
	sum := 0.0
	for line := range strings.Lines(info) {
		for _, field := range []string{"used_cpu_user:", "used_cpu_sys:"} {
			if value, ok := strings.CutPrefix(line, field); ok {
				seconds, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
				require.NoError(b, err)
				sum += seconds
			}
		}
	}
	return sum
}
