package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func encodePayload(t *testing.T, p payload) string {
	t.Helper()
	text, err := json.Marshal(p)
	require.NoError(t, err)
	return string(text)
}

// testRows are of a drain with three systems.
func testRows() []row {
	var rows []row
	add := func(system string, what metric, values ...float64) {
		for i, value := range values {
			rows = append(rows, row{"drain", "100", system, i + 1, what.name, value, what.unit})
		}
	}
	add(subject, throughput, 90_000, 100_000, 110_000)
	add(subject, redisCPU, 10)
	add("asynq", throughput, 10_000)
	add("asynq", redisCPU, 80)
	add("taskq", throughput, 50_000)
	add("limit-script", throughput, 200_000)
	add("taskq-fast", throughput, 150_000)
	return rows
}

func TestTables(t *testing.T) {
	t.Parallel()
	chosen := chooseWorkloads(workloads(), regexp.MustCompile("^drain/100$"), false)
	grids := tables(testRows(), chosen, []string{subject, "asynq", "taskq", "limit-script", "absent"})
	require.Len(t, grids, 1)
	var text strings.Builder
	grids[0].text(&text)
	require.Equal(t, strings.Join([]string{
		"", "drain, concurrency: 100",
		"  system        throughput, tasks/s  Redis CPU, us/task",
		"  redtask       100k (90.0k-110k)    10.0",
		"  asynq         10.0k 10.0x          80.0 8.00x",
		"  taskq         50.0k 2.00x          -",
		"  limit-script  200k 0.50x           -", "",
	}, "\n"), text.String())
	var markdown strings.Builder
	grids[0].markdown(&markdown)
	require.Contains(t, markdown.String(), "| system | throughput, tasks/s | Redis CPU, us/task |\n|---|---|---|\n| redtask | 100k (90.0k-110k) | 10.0 |\n")
}

func TestVerdicts(t *testing.T) {
	t.Parallel()
	lines := map[string][]string{}
	for _, line := range verdicts(collect(testRows())).rows {
		lines[line[0]] = line[1:]
	}
	require.Equal(t, []string{
		"9.00x asynq, 2.50x the fastest peer, 85% of limit-script", "10.0x asynq, 2.00x the fastest peer, 50% of limit-script", "no", "50% of limit-script",
	}, lines["drain, concurrency 100"])
	require.Equal(t, []string{"Redis CPU 20.0 us/task", "Redis CPU 10.0 us/task", "yes", "-"}, lines["Redis CPU, start and drain at 100"])
	require.Equal(t, []string{"90% of limit-evalsha", "-", "-", "-"}, lines["start from 1 producer"])
}

func TestEachTargetIsMeasured(t *testing.T) {
	t.Parallel()
	measured := map[string]bool{}
	for _, w := range workloads() {
		for _, parameter := range w.parameters {
			measured[w.name+"/"+parameter] = true
		}
	}
	for _, target := range targets() {
		for _, w := range target.wants {
			require.True(t, measured[w.workload+"/"+w.parameter], "%s is of %s/%s", target.work, w.workload, w.parameter)
			require.Equal(t, w.metric, findMetric(w.metric.name, w.metric.unit))
		}
	}
}

func TestCSV(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "x.csv")
	require.NoError(t, writeCSV(path, testRows()))
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	lines := strings.Split(string(text), "\n")
	require.Equal(t, []string{"workload,parameter,system,repeat,metric,value,unit", "drain,100,redtask,1,throughput,90000,tasks/s"}, lines[:2])
	require.Len(t, lines, 1+len(testRows())+1)
}

func TestPublish(t *testing.T) {
	t.Parallel()
	text, err := between("# Head\n\n<!-- bench -->\nold\n<!-- /bench -->\n\ntail\n", "new\n")
	require.NoError(t, err)
	require.Equal(t, "# Head\n\n<!-- bench -->\n\nnew\n\n<!-- /bench -->\n\ntail\n", text)
	_, err = between("<!-- /bench --> <!-- bench -->", "new")
	require.Error(t, err)

	path := filepath.Join(t.TempDir(), "x.md")
	o := outcome{machine: "a machine", settings: "Medians.", verdicts: verdicts(nil), notes: []string{"a note"}}
	require.NoError(t, o.publish(path))
	require.NoError(t, o.publish(path))
}

func TestChooseWorkloads(t *testing.T) {
	t.Parallel()
	full := chooseWorkloads(workloads(), regexp.MustCompile("drain/1000?$|emit"), false)
	require.Len(t, full, 2)
	require.Equal(t, []string{"100", "1000"}, full[0].parameters)
	require.Len(t, chooseWorkloads(workloads(), regexp.MustCompile("drain|emit"), true), 1)
}
