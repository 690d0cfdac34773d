package main

const fastest = "the fastest peer"

// target is a row of what redtask has to reach.
type target struct {
	work  string
	wants []want
	limit string // the system that is the limit of the first want; "": none is measured
}

// want is a number to reach: a bound, or so many times as good as another system in the same run.
type want struct {
	workload  string
	parameter string
	metric    metric
	least     float64 // a bound, or how many times as good
	against   string  // a system; "" for a bound
	at        *want   // where the other one's number is; nil: at the same place
}

// the rates of a drain at one concurrency
func drainTarget(parameter string, asynq float64) target {
	return target{"drain, concurrency " + parameter, []want{
		{"drain", parameter, throughput, asynq, "asynq", nil},
		{"drain", parameter, throughput, 2.5, fastest, nil},
		{"drain", parameter, throughput, 0.85, "limit-script", nil},
	}, "limit-script"}
}

func targets() []target {
	start32, running10 := &want{workload: "start", parameter: "32", metric: throughput}, &want{workload: "running", parameter: "10", metric: commandsRate}
	return []target{
		drainTarget("10", 7), drainTarget("100", 9), drainTarget("1000", 10),
		{"Redis CPU, start and drain at 100", []want{{"drain", "100", redisCPU, 20, "", nil}}, "limit-script"},
		{"start from 1 producer", []want{{"start", "1", throughput, 0.9, "limit-evalsha", nil}}, "limit-evalsha"},
		{"start from 32 producers", []want{
			{"start", "32", throughput, 2.5, "asynq", nil}, {"start", "32", throughput, 1.5, fastest, nil},
		}, "limit-pipeline"},
		{"start in bulk", []want{{"bulk", "1000", throughput, 5, "asynq", start32}}, "limit-pipeline"},
		{"idle pick-up", []want{{"pick-up", "1", latencyMedian, 0.45, "", nil}, {"pick-up", "1", latencyHigh, 1, "", nil}}, "limit-script"},
		{"delayed start, error", []want{{"delayed", "200", latencyHigh, 20, "", nil}}, ""},
		{"Redis bytes per waiting task, data of 40", []want{{"memory", "40", taskMemory, 220, "", nil}}, "limit-script"},
		{"idle runner, Redis commands", []want{{"idle", "1", commandsRate, 1, "", nil}}, "limit-script"},
		{"10,000 running tasks, Redis commands", []want{
			{"running", "10000", commandsRate, 1, "", nil}, {"running", "10000", commandsRate, 0.8, subject, running10},
		}, "limit-script"},
		{"10,000 tasks all started", []want{
			{"running", "10000", allStarted, 0.3, "", nil}, {"running", "10000", runningMemory, 80, "", nil},
		}, "limit-script"},
		{"100,000 running tasks on one runner", []want{
			{"crowd", "100000", allStarted, 3, "", nil}, {"crowd", "100000", memoryPerTask, 8 * 1024, "", nil},
		}, ""},
		{"emit from 1,000 tasks to one watcher", []want{
			{"emit", "1000", published, 150_000, "", nil}, {"emit", "1000", received, 100_000, "", nil},
		}, ""},
	}
}
