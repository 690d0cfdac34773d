package main

// metric is one number that a workload measures.
type metric struct {
	name string
	unit string
	more bool // more is better
}

func (m metric) String() string {
	if m.unit == "1" {
		return m.name
	}
	return m.name + ", " + m.unit
}

var (
	throughput      = metric{"throughput", "tasks/s", true}
	redisCPU        = metric{"Redis CPU", "us/task", false}
	redisCPUStart   = metric{"Redis CPU of start", "us/task", false}
	redisCPUDrain   = metric{"Redis CPU of drain", "us/task", false}
	processCPU      = metric{"process CPU", "us/task", false}
	commandsPerTask = metric{"Redis commands", "1/task", false}
	tripsPerTask    = metric{"round trips", "1/task", false}
	peakMemory      = metric{"peak RSS", "MiB", false}
	latencyMedian   = metric{"p50", "ms", false}
	latencyHigh     = metric{"p99", "ms", false}
	samples         = metric{"samples", "1", true}
	taskMemory      = metric{"Redis memory", "bytes/task", false}
	commandsRate    = metric{"Redis commands", "1/s", false}
	tripsRate       = metric{"round trips", "1/s", false}
	callsRate       = metric{"client calls", "1/s", false}
	redisLoad       = metric{"Redis CPU", "us/s", false}
	slowestCommand  = metric{"slowest command", "ms", false}
	allStarted      = metric{"all started", "s", false}
	runningMemory   = metric{"RSS", "MiB", false}
	memoryPerTask   = metric{"RSS per task", "bytes", false}
	published       = metric{"published", "events/s", true}
	received        = metric{"received in order", "events/s", true}
	lostEvents      = metric{"not received", "%", false}
)

const (
	micro    = 1e6
	mebibyte = 1 << 20
)

// row is a line of the CSV: what one measurement found.
type row struct {
	workload, parameter, system string
	repeat                      int
	metric                      string
	value                       float64
	unit                        string
}

// findMetric finds a metric by its name and unit in the CSV.
func findMetric(name, unit string) metric {
	for _, m := range []metric{
		throughput, redisCPU, redisCPUStart, redisCPUDrain, processCPU, commandsPerTask, tripsPerTask, peakMemory, latencyMedian, latencyHigh, samples,
		taskMemory, commandsRate, tripsRate, callsRate, redisLoad, slowestCommand, allStarted, runningMemory, memoryPerTask, published, received,
		lostEvents,
	} {
		if m.name == name && m.unit == unit {
			return m
		}
	}
	return metric{name: name, unit: unit}
}
