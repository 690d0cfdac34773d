package redtasktest

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask"
	"github.com/redtask/redtask/internal/redistest"
)

func TestHarness(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		registry := registryOf(map[string]redtask.Factory{"test/greet": redtask.FuncOut(greet)})
		h := on(t, url, registry, redtask.RunnerOptions{Prefix: "mine"})
		require.Equal(t, url == Miniredis, h.Miniredis != nil)
		require.NotEqual(t, "mine", h.Prefix)
		require.NotEqual(t, h.Prefix, on(t, url, registry, redtask.RunnerOptions{}).Prefix, "no two share a prefix")

		// A client that the code under test makes meets the runner, whose queue holds nothing but the test's tasks.
		client, err := redtask.NewClient(h.Redis, redtask.ClientOptions{Prefix: h.Prefix})
		require.NoError(t, err)
		require.Equal(t, "hello Ann", Output[string](h.Collect(start(t, client, "test/greet", person{Name: "Ann"}))))
		counts, err := h.Client.Counts(t.Context())
		require.NoError(t, err)
		require.Equal(t, redtask.Counts{Ended: 1, Additional: counts.Additional}, *counts)
	})
}

func TestIdle(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		h := idle(t, url)
		require.Nil(t, h.Runner)
		start(t, h.Client, "test/greet", nil)
		require.Equal(t, redtask.StateWait, h.RequireStarted("test/greet", nil).State)
		runners, err := h.Client.Runners(t.Context())
		require.NoError(t, err)
		require.Empty(t, runners)
	})
}

// What a test leaves running is told to stop, and on a server that others use no key remains.
func TestNothingRemains(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		var ended atomic.Bool
		var h *Harness
		fake := attempt(t, time.Time{}, func(t testing.TB) {
			h = on(t, url, registryOf(map[string]redtask.Factory{"test/block": redtask.Func(func(ctx context.Context, n int) error {
				defer ended.Store(true)
				return block(ctx, n)
			})}), redtask.RunnerOptions{})
			h.Watch(start(t, h.Client, "test/block", 1)).Next("tick")
			start(t, h.Client.ForQueue("unserved"), "test/block", 2)
			keys, err := h.scan(t.Context(), "*")
			require.NoError(t, err)
			require.NotEmpty(t, keys)
		})
		require.False(t, fake.failed)
		require.Empty(t, fake.text.String(), "a test that passed shows no log")
		require.True(t, ended.Load())
		require.ErrorIs(t, h.Redis.Ping(t.Context()).Err(), redis.ErrClosed)
		if url != Miniredis {
			require.Empty(t, realRedis.Client(t).Keys(t.Context(), h.Prefix+"*").Val())
		}
	})
}

func TestTwoThousandKeysAreDeleted(t *testing.T) {
	t.Parallel()
	url := realURL(t)
	var prefix string
	fake := attempt(t, time.Time{}, func(t testing.TB) {
		h := idle(t, url)
		prefix = h.Prefix
		_, err := h.Client.StartMany(t.Context(), slicesOf(2500, redtask.StartRequest{Task: "test/greet"}))
		require.NoError(t, err)
		require.Len(t, h.Started("test/greet"), 2500)
	})
	require.False(t, fake.failed, fake.text.String())
	require.Empty(t, realRedis.Client(t).Keys(t.Context(), prefix+"*").Val())
}

func slicesOf(n int, request redtask.StartRequest) []redtask.StartRequest {
	requests := make([]redtask.StartRequest, n)
	for i := range requests {
		requests[i] = request
	}
	return requests
}

// A failed test shows the runner's log, unless the test has a logger of its own.
func TestLogOfFailedTest(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		registry := registryOf(map[string]redtask.Factory{"test/break": redtask.Func(func(context.Context, any) error { panic("at the disco") })})
		text := fails(t, func(t testing.TB) {
			on(t, url, registry, redtask.RunnerOptions{}).Run("test/break", nil)
			t.Errorf("that was not what I expected")
		}, "the runner's log:\n", "task ended in EXCEPTION")
		require.Less(t, strings.Index(text, "expected"), strings.Index(text, "the runner's log"))

		var mine bytes.Buffer
		text = fails(t, func(t testing.TB) {
			on(t, url, registry, redtask.RunnerOptions{Logger: slog.New(slog.NewTextHandler(&mine, nil))}).Run("test/break", nil)
			t.Errorf("that was not what I expected")
		})
		require.NotContains(t, text, "the runner's log")
		require.Contains(t, mine.String(), "task ended in EXCEPTION")
	})
}

// A task that ignores its ctx fails the test that left it behind.
func TestStuckTaskIsReported(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		release, returned := make(chan struct{}), make(chan struct{})
		fails(t, func(t testing.TB) {
			h := NewWith(t, registryOf(map[string]redtask.Factory{"test/stuck": redtask.Func(func(ctx context.Context, _ any) error {
				defer close(returned)
				if err := redtask.FromContext(ctx).Emit("begun", nil); err != nil {
					return err
				}
				<-release
				return nil
			})}), Options{RedisURL: url, Timeout: 5 * time.Second})
			h.Watch(start(t, h.Client, "test/stuck", nil)).Next("begun")
			h.timeout = 0 // for the shutdown
		}, "redtasktest: shut down the runner: ", "tasks did not return in time when they were told to stop", "test/stuck")
		close(release)
		<-returned
	})
}

func TestGrace(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		release := make(chan struct{})
		causes := make(chan error, 1)
		fake := attempt(t, time.Time{}, func(t testing.TB) {
			h := on(t, url, registryOf(map[string]redtask.Factory{"test/slow": redtask.Func(func(ctx context.Context, _ any) error {
				_ = redtask.FromContext(ctx).Emit("begun", nil)
				<-release
				causes <- ctx.Err()
				return nil
			})}), redtask.RunnerOptions{Grace: time.Minute})
			h.Watch(start(t, h.Client, "test/slow", nil)).Next("begun")
			close(release)
		})
		require.False(t, fake.failed, fake.text.String())
		require.NoError(t, <-causes, "a grace period was asked for, and nothing cancelled within")
	})
}

func TestBadOptions(t *testing.T) {
	t.Parallel()
	registry := redtask.NewRegistry()
	for text, options := range map[string]Options{
		"Options.Timeout -1s is negative":                 {Timeout: -time.Second},
		"the URL of the Redis to test on (REDTASK_TEST_":  {RedisURL: "http://localhost"},
		"queue \"a{b}\"":                                  {RedisURL: Miniredis, Runner: redtask.RunnerOptions{Queues: map[string]int{"a{b}": 1}}},
		"start the runner: redtask: invalid input: Lease": {RedisURL: Miniredis, Runner: redtask.RunnerOptions{Lease: time.Second}},
	} {
		fails(t, func(t testing.TB) { NewWith(t, registry, options) }, text)
	}
	fails(t, func(t testing.TB) { NewWith(t, nil, Options{RedisURL: Miniredis}) }, "NewRunner: the registry is nil")
}

func TestServerThatIsNotThere(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	server.Kill()
	fails(t, func(t testing.TB) {
		NewWith(t, redtask.NewRegistry(), Options{RedisURL: "redis://" + server.Addr, Timeout: time.Second})
	},
		`watch queue "default": is Redis there?`, server.Addr)
}

// The only test that is not parallel: the environment is everyone's.
func TestEnvironment(t *testing.T) {
	registry := registryOf(map[string]redtask.Factory{"test/greet": redtask.FuncOut(greet)})
	t.Setenv(Environment, "")
	require.NotNil(t, New(t, registry).Miniredis)
	t.Setenv(Environment, realURL(t)+"/3")
	h := New(t, registry)
	require.Nil(t, h.Miniredis)
	require.Equal(t, 3, h.Redis.(*redis.Client).Options().DB)
	require.Equal(t, "hello Ann", Output[string](h.Run("test/greet", person{Name: "Ann"})))
	require.NotNil(t, NewWith(t, nil, Options{RedisURL: Miniredis, Idle: true}).Miniredis)
}

func TestManyHarnesses(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		for i := range 50 {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				h := on(t, url, registryOf(map[string]redtask.Factory{"test/greet": redtask.FuncOut(greet)}), redtask.RunnerOptions{})
				for j := range 5 {
					name := fmt.Sprint(i, "-", j)
					result := h.Run("test/greet", person{Name: name})
					require.Equal(t, "hello "+name, Output[string](result))
					require.Equal(t, []string{"running", "greeting", "ended"}, result.Events.Names())
				}
				require.Len(t, h.Started("test/greet"), 5, "nothing of the other tests")
			})
		}
	})
}

func TestLogIsBounded(t *testing.T) {
	t.Parallel()
	var log logBuffer
	for i := range 100_000 {
		fmt.Fprintf(&log, "line %d\n", i)
	}
	text := log.take()
	require.LessOrEqual(t, len(text), 2*maxLog+20)
	require.True(t, strings.HasPrefix(text, "(cut) …"))
	require.True(t, strings.HasSuffix(text, "line 99999"))
	require.Empty(t, log.take())
}
