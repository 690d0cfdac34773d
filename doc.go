// Package redtask solves one problem: work that must go on when the process that does it dies or is deployed, and that somebody else
// wants to start, watch, stop or change while it runs.
//
// A task is a Go type, or a function, with a name. Its record lives in Redis. Anyone who can reach Redis starts one by its name, watches
// its events, stops it, reloads it with new data: Go code through a [Client], everything else with a few plain Redis commands. A [Runner]
// takes tasks from the line and runs each in a goroutine. The same model serves a mail that is sent in a second and a feed that is
// followed for months.
//
//	registry := redtask.NewRegistry()
//	registry.Register("mail/send", redtask.Func(func(ctx context.Context, mail Mail) error {
//		return send(ctx, mail)
//	}))
//	runner, err := redtask.NewRunner(rdb, registry, redtask.RunnerOptions{})
//	if err != nil {
//		return err
//	}
//	return runner.Run(ctx) // until ctx ends
//
// and anywhere else:
//
//	id, err := client.Start(ctx, "mail/send", Mail{To: "ada@example.com"})
//
// # Tasks
//
// [Func] and [FuncOut] make a task of a function with typed input, and output. A type of your own implements [Task]: Init gets the JSON
// that the task was started with, Start does the work. Two more methods are optional: Stop, see [Stopper], tells it to come to an end
// before its ctx is cancelled; ProvideContext, see [ContextProvider], wraps all of them in the application's own context.
//
// Inside a task, [FromContext] gives the [Run]: its ID, a logger, Emit for events, Progress, SetOutput, Checkpoint and LoadCheckpoint,
// and a client.
//
// [Middleware] does something around Init and Start of many tasks: trace, measure, give values to their ctx. It is listed in
// [RunnerOptions.Middleware] for all tasks, in [TaskOptions.Middleware] for those of one name.
//
// # Ends
//
// What Start (or Init) returns decides the state that the task ends in:
//
//   - nil, or [ErrDone]: ENDED.
//   - an error made by [Fail] or [Failf]: ERROR. The task itself says that it failed.
//   - any other error, a panic, data that cannot be decoded: EXCEPTION. The record has the message, and the stack of a panic; see
//     RunnerOptions.OnException.
//
// An end in ERROR or EXCEPTION is no end where a policy says so: [Retry] makes a bounded number of attempts, [Supervise] is for tasks that
// should always run. Both may be given at registration and at a start; [RetryAfter] and [NoRetry] let the task decide.
//
// A task that was told to stop has its ctx cancelled, and [context.Cause] says why. Then nil, or the error of the cancelled ctx, means
// that it did as told:
//
//   - [ErrStopped], somebody stopped it: STOPPED.
//   - [ErrShutdown], the runner shuts down: back at the head of the line, no attempt counted.
//   - [ErrReloaded], new data: the new instance takes over.
//   - [ErrRestarted]: back at the head of the line, attempts counted from zero. This holds whatever the task returns.
//   - [ErrTimedOut], it ran longer than its [TaskOptions.Timeout], or than [Run.TimeoutAfter] allows: EXCEPTION, which a policy may retry.
//   - [ErrDeadline], its [StartOptions.Deadline] is past: EXCEPTION, for good.
//   - [ErrLeaseLost], the runner could not reach Redis for too long: the task goes on in another run. This one is to return without
//     further effects; what it returns is written only if its claim still holds.
//
// Any other return keeps its own meaning: [ErrDone] is ENDED (the work was finished all the same), an error made by [Fail] is ERROR, the
// rest is EXCEPTION. So ends, without having run, a task that waited longer than its [StartOptions.Expiry], see [ErrExpired], and one whose
// name no live runner of its queue knows.
//
// # Running
//
// A [Runner] serves one or several queues, each with its own number of tasks at a time. It proves that it lives with one lease for each
// queue, however many tasks run. When it dies, the tasks go back in line within [RunnerOptions.Lease] plus a second, 16 s by default, as
// long as another runner of the queue lives; that is the work of the monitor, which runs in every runner together with the cleanup of old
// records and the cron, which starts what the schedule says. Package [builtin] configures them. Records of final tasks stay for 24 h (ENDED,
// STOPPED) or 7 days (ERROR, EXCEPTION), at most 10,000 of each state, unless it, or Keep of a start or registration, says otherwise.
//
// [Runner.Run] blocks until its ctx ends and then gives everything back; [Runner.Start] and [Runner.Shutdown] are for those who embed it. Redis
// 6.2 or newer, or Valkey, must not evict keys (maxmemory-policy noeviction).
//
// # Control
//
// A [Client] starts tasks with [Client.Start], [Client.StartWith] and [Client.StartMany], ends them with [Client.Stop], gives them new
// data with [Client.ReloadWith], runs them again with [Client.Restart] or [Client.Retry], takes them away with [Client.Remove]. Stops, reloads
// and restarts are recorded in Redis: a runner that is away for a moment learns of them later. [Client.Get], [Client.List], [Client.Log] and
// [Client.Counts] look at what there is; [Client.Wait] waits for the end of one, [Client.WaitMany] and [Client.WaitEach] of many, [Await]
// for an output. [Client.StopMany] and its like do to all tasks that fit a [Filter] what the calls for one do.
//
// # Time, order and limits
//
// [StartOptions] say more of one start: when it is due, its priority, the [Once] key that no other task may have, what it is about, so that
// [Limits] count by it or [StartOptions.Ordered] keeps the order, its deadline, the headers that travel with it. [Client.Reschedule] moves a
// task that waits. [Client.Cron] is the schedule by which the runners start tasks. [Client.Pause] keeps a whole queue from taking tasks.
//
// # Events
//
// Each change of a task's state is published, and so is what the task emits. [Client.Watch] follows one task, [Client.WatchQueue] a
// queue. The events of one run are numbered without holes and come in order, the final one last; where some may be missing, the watcher
// gets [EventGap]. Events are for those who listen now: what must not be missed belongs in the record.
//
// # Guarantees
//
// A task whose start was acknowledged reaches a final state as long as Redis keeps its data and a runner that knows its name lives. It
// may run more than once, never twice under one lease, and only the latest run can write to the record. So a task is to be written such
// that it may begin again: see [Run.Checkpoint], and [Run.Epoch] as a fencing token for other systems. docs/guarantees.md in the
// repository lists each guarantee, with its limits and the test that shows it; docs/protocol.md describes the keys in Redis.
//
// # Testing
//
// Package [redtasktest] runs your tasks in go test, without a Redis server.
//
// [builtin]: https://pkg.go.dev/github.com/redtask/redtask/builtin
// [redtasktest]: https://pkg.go.dev/github.com/redtask/redtask/redtasktest
package redtask
