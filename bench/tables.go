package main

import (
	"fmt"
	"math"
	"slices"
)

// tables make a table of each workload and parameter: a line for each system, a column for each metric. Beside the others' medians stands how
// many times better redtask is.
func tables(rows []row, all []workload, order []string) []grid {
	found := collect(rows)
	var grids []grid
	for i := range all {
		w := &all[i]
		for _, parameter := range w.parameters {
			g := table(found, rows, w, parameter, order)
			if len(g.rows) > 0 {
				grids = append(grids, g)
			}
		}
	}
	return grids
}

func table(found results, rows []row, w *workload, parameter string, order []string) grid {
	metrics := metricsOf(rows, w.name, parameter)
	g := grid{title: w.title(parameter), about: w.about, header: []string{"system"}}
	for _, m := range metrics {
		g.header = append(g.header, m.String())
	}
	for _, system := range order {
		line, measured := []string{system}, false
		for _, m := range metrics {
			here := found[cell{w.name, parameter, system, m.name}]
			measured = measured || len(here) > 0
			line = append(line, cellText(m, here, found[cell{w.name, parameter, subject, m.name}], system))
		}
		if measured {
			g.rows = append(g.rows, line)
		}
	}
	return g
}

func cellText(m metric, here, ours sample, system string) string {
	if len(here) == 0 {
		return "-"
	}
	times := ratio(m, ours, here)
	if system == subject || m == samples || math.IsNaN(times) || math.IsInf(times, 0) || times == 0 {
		return here.String()
	}
	return fmt.Sprintf("%s %sx", here, show(times))
}

const anyParameter = ""

// metricsOf lists the metrics of a workload in the order in which they were measured.
func metricsOf(rows []row, workload, parameter string) []metric {
	var found []metric
	for _, r := range rows {
		m := findMetric(r.metric, r.unit)
		if r.workload == workload && (parameter == anyParameter || r.parameter == parameter) && !slices.Contains(found, m) {
			found = append(found, m)
		}
	}
	return found
}
