package redtask

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// What a worker process is told: the address of its Redis, and its prefix.
const (
	workerRedis  = "REDTASK_WORKER_REDIS"
	workerPrefix = "REDTASK_WORKER_PREFIX"
)

// workerProcess is this test binary as a worker: it runs until its standard input ends, as it does when the test dies.
func workerProcess() {
	rdb := redis.NewClient(&redis.Options{Addr: os.Getenv(workerRedis)})
	prefix := os.Getenv(workerPrefix)
	options := RunnerOptions{Prefix: prefix, Grace: NoGrace, Queues: map[string]int{"default": 20}, Middleware: []Middleware{
		func(next Handler) Handler {
			return func(ctx context.Context, task Task) error {
				rdb.Incr(ctx, prefix+"-wrapped")
				return next(ctx, task)
			}
		},
	}}
	fastLease(&options)
	options.hooks.listening = func(string) { fmt.Println("ready") }
	runner, err := NewRunner(rdb, workerTasks(rdb, prefix), options)
	if err == nil {
		err = runner.Start(context.Background())
	}
	if err != nil {
		panic(err)
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	_ = runner.Shutdown(context.Background())
}

// workerTasks tell in Redis what they do, since they run in any of several processes.
func workerTasks(rdb *redis.Client, prefix string) *Registry {
	registry := NewRegistry()
	note := func(ctx context.Context) {
		run := FromContext(ctx)
		rdb.RPush(ctx, prefix+"-ran", run.ID())
		rdb.SAdd(ctx, prefix+"-pids", os.Getpid())
	}
	add := func(name string, options TaskOptions, work func(ctx context.Context) error) {
		registry.RegisterWith("test/"+name, FuncOut(func(ctx context.Context, n int) (int, error) {
			note(ctx)
			return n + 1, work(ctx)
		}), options)
	}
	add("flaky", TaskOptions{Retry: &Retry{Attempts: 3, Backoff: Constant(time.Millisecond)}, LogLines: 10}, func(ctx context.Context) error {
		FromContext(ctx).Logger().Info("attempt " + strconv.Itoa(FromContext(ctx).Attempt()))
		if FromContext(ctx).Attempt() < 3 {
			return errSurprise
		}
		return nil
	})
	add("crash", TaskOptions{Supervise: &Supervise{Backoff: Constant(time.Millisecond), MaxRestarts: 3}}, func(context.Context) error { return errSurprise })
	add("quick", TaskOptions{}, func(context.Context) error { return nil })
	add("fails", TaskOptions{}, func(ctx context.Context) error {
		if rdb.SAdd(ctx, prefix+"-failed", FromContext(ctx).ID()).Val() == 1 {
			return errors.New("bad deploy")
		}
		return nil
	})
	add("long", TaskOptions{}, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
	add("limited", TaskOptions{Limits: Limits{Concurrency: 4, Rate: Rate{N: 40, Per: 100 * time.Millisecond}}}, func(ctx context.Context) error {
		now := rdb.Incr(ctx, prefix+"-now").Val()
		rdb.ZAdd(ctx, prefix+"-peak", redis.Z{Score: float64(now), Member: now})
		defer rdb.Decr(context.WithoutCancel(ctx), prefix+"-now")
		pause(ctx, 3*time.Millisecond)
		return nil
	})
	return registry
}

// processes starts worker processes on a real Redis.
func processes(t *testing.T, n int) (*env, []*exec.Cmd) {
	t.Helper()
	e := onRedis(t)
	var all []*exec.Cmd
	for range n {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), workerRedis+"="+e.rdb.Options().Addr, workerPrefix+"="+e.prefix)
		cmd.Stderr = e.log
		stdin, err := cmd.StdinPipe()
		require.NoError(t, err)
		stdout, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		t.Cleanup(func() {
			_ = stdin.Close()
			_ = cmd.Wait() // one that was killed says so
		})
		ready := make(chan string, 1)
		go func() {
			line, _ := bufio.NewReader(stdout).ReadString('\n')
			ready <- line
			_, _ = io.Copy(io.Discard, stdout)
		}()
		require.Equal(t, "ready\n", receive(t, "the worker listens", ready))
		all = append(all, cmd)
	}
	return e, all
}

func many(n int, task string, change func(i int, o *StartOptions)) []StartRequest {
	requests := make([]StartRequest, n)
	for i := range requests {
		requests[i] = StartRequest{Task: task, Data: i}
		if change != nil {
			change(i, &requests[i].Options)
		}
	}
	return requests
}

func (e *env) ran(t *testing.T) []string {
	t.Helper()
	ids, err := e.rdb.LRange(testContext(t), e.prefix+"-ran", 0, -1).Result()
	require.NoError(t, err)
	return ids
}

// All that a start, a policy, a schedule and a limit say holds between two processes.
func TestTwoProcesses(t *testing.T) {
	t.Parallel()
	e, _ := processes(t, 2)
	client, ctx := e.client(t), testContext(t)

	ids := startAll(t, client, many(20, "test/flaky", func(_ int, o *StartOptions) { o.Headers = map[string]string{"tenant": "a"} }))
	records, err := client.WaitMany(ctx, ids)
	require.NoError(t, err)
	for i, record := range records {
		require.Equal(t, StateEnded, record.State)
		require.Equal(t, 3, record.Attempt)
		require.Len(t, record.History, 2)
		require.Equal(t, "a", record.Headers["tenant"])
		output, err := Output[int](record)
		require.NoError(t, err)
		require.Equal(t, i+1, output)
		lines, err := client.Log(ctx, record.ID)
		require.NoError(t, err)
		require.Len(t, lines, 5, "and two of the runner")
		require.Equal(t, "attempt 3", lines[4].Message)
	}
	record := wait(t, client, start(t, client, "test/crash", 1))
	require.Equal(t, StateException, record.State)
	require.Equal(t, 4, record.Attempt)
	require.Contains(t, record.Error, "restarted 3 times")

	ids = startAll(t, client, many(20, "test/quick", func(i int, o *StartOptions) { o.In = time.Duration(i+1) * 10 * time.Millisecond }))
	for i, id := range ids {
		record := wait(t, client, id)
		require.False(t, record.StartedAt.Before(record.CreatedAt.Add(time.Duration(i+1)*10*time.Millisecond)), "not before it is due")
	}
	once := startAll(t, client, many(20, "test/long", func(_ int, o *StartOptions) { o.Once = Unique("k", 0).OrExisting() }))
	require.Len(t, slices.Compact(once), 1)
	require.NoError(t, client.Stop(ctx, once[0]))
	require.Equal(t, StateStopped, wait(t, client, once[0]).State)
	timed, err := client.StartWith(ctx, "test/long", 1, StartOptions{Timeout: 20 * time.Millisecond})
	require.NoError(t, err)
	require.Equal(t, ErrTimedOut.Error()+" of 20ms", wait(t, client, timed).Error)

	require.NoError(t, client.Pause(ctx))
	paused := startAll(t, client, many(20, "test/quick", func(i int, o *StartOptions) { o.Expiry = time.Duration(i%2) * time.Millisecond }))
	dead, err := client.StartWith(ctx, "test/long", 1, StartOptions{Deadline: time.Now().Add(time.Millisecond)})
	require.NoError(t, err)
	last, err := client.Get(ctx, paused[len(paused)-1])
	require.NoError(t, err)
	eventually(t, "they have waited too long", func() bool { return e.rdb.Time(ctx).Val().After(last.ExpiresAt.Add(time.Millisecond)) })
	eventually(t, "what came to a runner that waited is back in line: neither process took one", func() bool {
		counts, err := client.Counts(ctx)
		return err == nil && counts.Wait == int64(len(paused))+1
	})
	require.NoError(t, client.Resume(ctx))
	for i, id := range paused {
		require.Equal(t, []string{"", ErrExpired.Error()}[i%2], wait(t, client, id).Error)
	}
	require.Contains(t, wait(t, client, dead).Error, ErrDeadline.Error())
	for _, id := range append(paused, dead) {
		require.NoError(t, client.Remove(ctx, id))
	}

	failed := startAll(t, client, many(50, "test/fails", nil))
	_, err = client.WaitMany(ctx, failed)
	require.NoError(t, err)
	done, err := client.RetryMany(ctx, Filter{State: StateException, Task: "test/fails", Error: "bad deploy"})
	require.NoError(t, err)
	require.Equal(t, 50, done.Done)
	eventually(t, "all work now", func() bool {
		page, err := client.List(ctx, ListOptions{State: StateException})
		return err == nil && len(page.Tasks) == 2 // that which crashed, and that which took too long
	})
	require.Positive(t, e.rdb.Get(ctx, e.prefix+"-wrapped").Val())
	require.EqualValues(t, 2, e.rdb.SCard(ctx, e.prefix+"-pids").Val(), "both took part")
}

// Each time of an entry is started once, whichever process sees it.
func TestTwoProcessesAndASchedule(t *testing.T) {
	t.Parallel()
	e, _ := processes(t, 2)
	client := e.client(t)
	for i := range 10 {
		require.NoError(t, client.Cron().Add(testContext(t), CronEntry{Name: fmt.Sprint("entry", i), Schedule: "@every 1s", Task: "test/quick", Data: i}))
	}
	eventually(t, "each has fired twice", func() bool { return len(e.ran(t)) >= 20 })
	ran := e.ran(t)
	slices.Sort(ran)
	require.Equal(t, ran, slices.Compact(slices.Clone(ran)), "none ran twice")
}

// One of two processes is killed while its tasks hold the places of a limit: the other goes on within it, and comes to the end.
func TestKilledHolders(t *testing.T) {
	t.Parallel()
	e, workers := processes(t, 2)
	client := e.client(t)
	ids := startAll(t, client, many(200, "test/limited", func(i int, o *StartOptions) {
		if i%4 == 0 {
			o.Key, o.Ordered = "k", true
		}
		o.Priority = []Priority{PriorityHigh, PriorityNormal, PriorityLow}[i%3]
	}))
	eventually(t, "some have run", func() bool { return len(e.ran(t)) > 40 })
	require.NoError(t, workers[0].Process.Kill())
	var begun []int64
	for _, id := range ids {
		record := wait(t, client, id)
		require.Equal(t, StateEnded, record.State)
		if record.Recoveries == 0 { // else its first start is not in the record any more
			begun = append(begun, record.StartedAt.UnixMilli())
		}
	}
	requireRate(t, begun, 40, 100*time.Millisecond)
	var ordered []string
	for _, id := range e.ran(t) {
		if i := slices.Index(ids, id); i%4 == 0 && !slices.Contains(ordered, id) {
			ordered = append(ordered, id)
		}
	}
	var want []string
	for i := 0; i < len(ids); i += 4 {
		want = append(want, ids[i])
	}
	require.Equal(t, want, ordered)
	peak := e.rdb.ZRangeArgs(testContext(t), redis.ZRangeArgs{Key: e.prefix + "-peak", Start: -1, Stop: -1}).Val()
	most, err := strconv.Atoi(peak[0])
	require.NoError(t, err)
	require.LessOrEqual(t, most, 4+4, "the killed ones are still counted there")
	e.requireNothingHeld(t)
}
