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
	results
	units  map[cell]string
	cells  []cell   // in the order of the file
	series []series // redtask, then its peers, then the limits
}

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
	if len(rows) == 0 || !slices.Equal(rows[0], csvHeader) {
		return nil, fmt.Errorf("%s: the first line must be %s", csvFile, strings.Join(csvHeader, ","))
	}
	m := &measured{results: results{}, units: map[cell]string{}}
	for i, row := range rows[1:] {
		value, err := strconv.ParseFloat(row[5], 64)
		if err != nil {
			return nil, fmt.Errorf("%s, row %d: value %q: %w", csvFile, i+2, row[5], err)
		}
		m.add(cell{workload: row[0], parameter: row[1], system: row[2], metric: row[4]}, value, row[6])
	}
	m.rank()
	return m, nil
}

func (m *measured) add(c cell, value float64, unit string) {
	if m.results[c] == nil {
		m.cells = append(m.cells, c)
		m.units[c] = unit
	}
	m.results[c] = append(m.results[c], value)
	if !slices.ContainsFunc(m.series, func(s series) bool { return s.system == c.system }) {
		m.series = append(m.series, series{c.system, look(c.system)})
	}
}

func look(system string) chart.Series {
	name, kind := cmp.Or(limitLabels[system], system), chart.Peer
	switch {
	case system == subject:
		kind = chart.Subject
	case isLimit(system):
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
	for _, c := range m.cells {
		if c.workload == workload && c.metric == metric && !slices.Contains(found, c.parameter) {
			found = append(found, c.parameter)
		}
	}
	return found
}

func (m *measured) unit(workload, metric string) string {
	for _, c := range m.cells {
		if c.workload == workload && c.metric == metric {
			return strings.Replace(m.units[c], "us/", "µs/", 1)
		}
	}
	return ""
}
