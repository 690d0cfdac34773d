package main

import (
	"cmp"
	"encoding/csv"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/redtask/redtask/bench/chart"
)

// measured is what a run wrote to its CSV file.
type measured struct {
	values  map[figure][]float64 // one per repeat
	units   map[figure]string
	figures []figure // in the order of the file
	series  []series // redtask, then its peers, then the limits
}

// figure is a metric that one system reached in one workload.
type figure struct{ workload, parameter, system, metric string }

type series struct {
	system string
	look   chart.Series
}

// limitLabels are the names of limits in charts; a library stands there as in the file.
var limitLabels = map[string]string{
	"limit-script":   "limit: no safety",
	"limit-pipeline": "limit: pipeline",
	"limit-evalsha":  "limit: bare EVALSHA",
}

// measuredColumns are those of the CSV file.
var measuredColumns = []string{"workload", "parameter", "system", "repeat", "metric", "value", "unit"}

func readMeasured(csvFile string) (*measured, error) {
	file, err := os.Open(csvFile)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	rows, err := csv.NewReader(file).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", csvFile, err)
	}
	if len(rows) == 0 || !slices.Equal(rows[0], measuredColumns) {
		return nil, fmt.Errorf("%s: the first line must be %s", csvFile, strings.Join(measuredColumns, ","))
	}
	m := &measured{values: map[figure][]float64{}, units: map[figure]string{}}
	for i, row := range rows[1:] {
		value, err := strconv.ParseFloat(row[5], 64)
		if err != nil {
			return nil, fmt.Errorf("%s, row %d: value %q: %w", csvFile, i+2, row[5], err)
		}
		m.add(figure{workload: row[0], parameter: row[1], system: row[2], metric: row[4]}, value, row[6])
	}
	m.rank()
	return m, nil
}

func (m *measured) add(f figure, value float64, unit string) {
	if m.values[f] == nil {
		m.figures = append(m.figures, f)
		m.units[f] = unit
	}
	m.values[f] = append(m.values[f], value)
	if !slices.ContainsFunc(m.series, func(s series) bool { return s.system == f.system }) {
		m.series = append(m.series, series{f.system, look(f.system)})
	}
}

func look(system string) chart.Series {
	name, kind := cmp.Or(limitLabels[system], system), chart.Peer
	switch {
	case system == subject:
		kind = chart.Subject
	case strings.HasPrefix(system, "limit-"):
		kind = chart.Limit
	}
	return chart.Series{Name: name, Kind: kind}
}

// rank puts redtask before its peers, these before the limits, and gives each peer a shade of its own.
func (m *measured) rank() {
	order := []chart.Kind{chart.Subject, chart.Peer, chart.Limit}
	slices.SortStableFunc(m.series, func(a, b series) int {
		return cmp.Compare(slices.Index(order, a.look.Kind), slices.Index(order, b.look.Kind))
	})
	for i := range m.series {
		m.series[i].look.Shade = max(0, i-1)
	}
}

// parameters are those that a metric was measured for, in the order of the file.
func (m *measured) parameters(workload, metric string) []string {
	var found []string
	for _, f := range m.figures {
		if f.workload == workload && f.metric == metric && !slices.Contains(found, f.parameter) {
			found = append(found, f.parameter)
		}
	}
	return found
}

func (m *measured) unit(workload, metric string) string {
	for _, f := range m.figures {
		if f.workload == workload && f.metric == metric {
			return strings.Replace(m.units[f], "us/", "µs/", 1)
		}
	}
	return ""
}
