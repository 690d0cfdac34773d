package redtask

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask/internal/redistest"
)

// What a task costs this process: the answers to the calls of the hot path are made or played back here, so no server's time is in the
// figures. Reading and writing the wire is in those of internal/store. `make bench-compare` compares both with testdata/bench.txt.

var benchData = map[string]any{"i": 12345, "text": "hello world"}

func BenchmarkHotID(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		newID()
	}
}

func BenchmarkHotEncode(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := encode("data", benchData, DefaultMaxData); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkHotStart is Start up to the wire and back, one at a time.
func BenchmarkHotStart(b *testing.B) {
	rdb, freeze := redistest.Replay(b, miniredis.RunT(b).Addr())
	client, err := NewClient(rdb, ClientOptions{})
	require.NoError(b, err)
	start(b, client, "bench/nothing", benchData)
	freeze()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := client.Start(b.Context(), "bench/nothing", benchData); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkHotLife is a task's life, from the answer that claims it to the batch that ends it, in a line that never empties.
func BenchmarkHotLife(b *testing.B) {
	for _, n := range []int{1, 10, 100, 1000} {
		b.Run(fmt.Sprintf("concurrency=%d", n), func(b *testing.B) {
			began := make(chan struct{}, n)
			benchRunner(b, n, Func(func(ctx context.Context, _ any) error {
				select {
				case began <- struct{}{}:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			}))
			for range 10 * n {
				<-began
			}
			b.ReportAllocs()
			for b.Loop() {
				<-began
			}
		})
	}
}

// BenchmarkHotEmit is one event of a running task.
func BenchmarkHotEmit(b *testing.B) {
	running := make(chan *Run, 1)
	benchRunner(b, 1, Func(func(ctx context.Context, _ any) error {
		running <- FromContext(ctx)
		<-ctx.Done()
		return ctx.Err()
	}))
	run := <-running
	b.ReportAllocs()
	for b.Loop() {
		if err := run.Emit("tick", benchData); err != nil {
			b.Fatal(err)
		}
	}
}

// benchRunner starts a runner whose commits are answered here.
func benchRunner(b *testing.B, concurrency int, factory func() Task) {
	b.Helper()
	e := newEnv(b, miniredis.RunT(b).Addr(), nil)
	commits := newFakeCommits()
	e.rdb.AddHook(commits)
	registry := NewRegistry()
	registry.Register("bench/nothing", factory)
	runner, err := NewRunner(e.rdb, registry, RunnerOptions{
		Prefix: e.prefix, Queues: map[string]int{"default": concurrency}, Grace: NoGrace, Locals: []Local{},
		Logger: slog.New(slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: slog.LevelError})),
	})
	require.NoError(b, err)
	require.NoError(b, runner.Start(b.Context()))
	b.Cleanup(func() {
		commits.closed.Store(true)
		require.NoError(b, runner.Shutdown(context.Background()))
	})
}

// fakeCommits answers commits in the place of the script: every item succeeds, and as many tasks are claimed as are wanted. All other calls
// go on to the server.
type fakeCommits struct {
	claims []any // of many tasks, taken in turn
	closed atomic.Bool

	mu    sync.Mutex
	at    int // in claims
	epoch int // of the last claim
}

const (
	claimFields = 5    // of a claim in a reply
	fakeTasks   = 4096 // far more than run at once: no ID may run twice
)

func newFakeCommits() *fakeCommits {
	commits := &fakeCommits{}
	for range fakeTasks {
		commits.claims = append(commits.claims, newID(), "1", "bench/nothing", `{"i":12345,"text":"hello world"}`, "")
	}
	return commits
}

func (c *fakeCommits) DialHook(next redis.DialHook) redis.DialHook { return next }

func (c *fakeCommits) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (c *fakeCommits) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		args := cmd.Args()
		if len(args) < 3 || args[2] != keysOfCommit {
			return next(ctx, cmd)
		}
		cmd.(*redis.Cmd).SetVal(c.answer(args))
		return nil
	}
}

// answer is what the header of commit.lua says.
func (c *fakeCommits) answer(args []any) any {
	argument := func(i int) int { // ARGV[i], which follows the keys
		n, _ := strconv.Atoi(fmt.Sprint(args[2+args[2].(int)+i]))
		return n
	}
	want := argument(5)
	if c.closed.Load() {
		want = 0
	}
	claims, epoch := c.claim(want)
	return []any{"ok", "1790000000000", []any{}, claims, epoch, []any{}, []any{}, int64(min(want, 1))}
}

func (c *fakeCommits) claim(n int) ([]any, string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at+n > fakeTasks {
		c.at = 0
	}
	from := c.at
	c.at += n
	c.epoch += n
	return c.claims[from*claimFields : c.at*claimFields], strconv.Itoa(c.epoch)
}
