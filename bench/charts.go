package main

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/redtask/redtask/bench/chart"
)

// barChart is one file of groups of bars.
type barChart struct {
	file, title, about string
	log                bool
	groups             []barGroup
}

// barGroup picks what stands in a group: one metric of one workload. Without a parameter it is a group for each that was measured, and
// %s in the label is the parameter's value: what follows its name, if it has one, as 100 in concurrency=100.
type barGroup struct{ workload, parameter, metric, label string }

// barCharts are the charts that compare systems.
var barCharts = []barChart{
	{
		file: "drain.svg", title: "Tasks drained per second",
		about:  "one worker process empties a full line of no-op tasks, until Redis has every completion; longer is better",
		groups: []barGroup{{workload: "drain", metric: "throughput", label: "%s tasks at once"}},
	},
	{
		file: "start.svg", title: "Tasks started per second",
		about: "producers put tasks in line one by one, or in bulk, until Redis has them all; longer is better",
		groups: []barGroup{
			{workload: "start", metric: "throughput", label: "producers: %s"},
			{workload: "bulk", metric: "throughput", label: "one producer, %s a call"},
		},
	},
	{
		file: "pickup.svg", title: "Time from a start to the run", log: true,
		about: "one task at a time, to an idle worker: from the call of start to the task's first line; shorter is better",
		groups: []barGroup{
			{workload: "pick-up", metric: "p50", label: "half of the tasks within (p50)"},
			{workload: "pick-up", metric: "p99", label: "99 of 100 tasks within (p99)"},
		},
	},
	{
		file: "memory.svg", title: "Redis memory per waiting task",
		about:  "what the server's memory grows by for each task in line; shorter is better",
		groups: []barGroup{{workload: "memory", metric: "Redis memory", label: "%s bytes of data"}},
	},
	{
		file: "cpu.svg", title: "CPU time per task",
		about: "no-op tasks, 100 at once; shorter is better",
		groups: []barGroup{
			{workload: "drain", parameter: "100", metric: "Redis CPU", label: "in Redis, to start and to drain it"},
			{workload: "drain", parameter: "100", metric: "process CPU", label: "in the worker process, to drain it"},
		},
	},
}

// lineCharts are those of workloads whose parameter is a size.
var lineCharts = []struct{ workload, title, size string }{
	{"scale-concurrency", "Tasks drained per second, over concurrency", "tasks at once"},
	{"scale-payload", "Tasks drained per second, over payload", "data of a task"},
	{"scale-queues", "Tasks drained per second, over queues", "queues"},
	{"scale-processes", "Tasks drained per second, over processes", "worker processes"},
	{"scale-waiting", "Tasks drained per second, over the length of the line", "tasks in line at first"},
	{"scale-running", "Tasks drained per second, over running tasks", "tasks that run beside"},
}

// drawCharts draws what a run measured: a chart is a file in dir. Those that the run has no figures for are left as they are.
func drawCharts(csvFile, dir string) error {
	m, err := readMeasured(csvFile)
	if err != nil {
		return err
	}
	for _, c := range barCharts {
		bars := chart.Bars{Title: c.title, About: c.about, Log: c.log}
		for _, g := range c.groups {
			bars.Groups = append(bars.Groups, m.groups(g)...)
			bars.Unit = cmp.Or(bars.Unit, m.unit(g.workload, g.metric))
		}
		if len(bars.Groups) == 0 {
			continue
		}
		if err := saveChart(dir, c.file, bars.SVG()); err != nil {
			return err
		}
	}
	for _, c := range lineCharts {
		lines, err := m.lines(c.workload, "throughput")
		if err != nil {
			return err
		}
		if len(lines.Lines) == 0 {
			continue
		}
		lines.Title, lines.Size, lines.Bytes = c.title, c.size, c.workload == "scale-payload"
		if err := saveChart(dir, c.workload+".svg", lines.SVG()); err != nil {
			return err
		}
	}
	return nil
}

func saveChart(dir, file string, svg []byte) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, file), svg, 0o644)
}

// groups are the bars of a workload, by parameter in the order of the run.
func (m *measured) groups(pick barGroup) []chart.Group {
	var groups []chart.Group
	for _, parameter := range m.parameters(pick.workload, pick.metric) {
		value := sizeIn(parameter)
		if pick.parameter != "" && value != pick.parameter {
			continue
		}
		group := chart.Group{Label: strings.ReplaceAll(pick.label, "%s", value)}
		for i := range m.series {
			values := m.results[cell{pick.workload, parameter, m.series[i].system, pick.metric}]
			if len(values) > 0 {
				group.Bars = append(group.Bars, chart.Bar{Series: m.series[i].look, Spread: chart.SpreadOf(values)})
			}
		}
		groups = append(groups, group)
	}
	return groups
}

func sizeIn(parameter string) string { return parameter[strings.Index(parameter, "=")+1:] }

// lines are a workload's values by the number in its parameter.
func (m *measured) lines(workload, metric string) (*chart.Lines, error) {
	lines := &chart.Lines{About: "line: median, band: least to most; higher is better", Unit: m.unit(workload, metric)}
	for i := range m.series {
		line := chart.Line{Series: m.series[i].look}
		for _, parameter := range m.parameters(workload, metric) {
			size, err := strconv.ParseFloat(sizeIn(parameter), 64)
			if err != nil {
				return nil, fmt.Errorf("workload %s: parameter %q: want a number: %w", workload, parameter, err)
			}
			values := m.results[cell{workload, parameter, m.series[i].system, metric}]
			if len(values) > 0 {
				line.Points = append(line.Points, chart.Point{Size: size, Spread: chart.SpreadOf(values)})
			}
		}
		if len(line.Points) > 0 {
			lines.Lines = append(lines.Lines, line)
		}
	}
	return lines, nil
}
