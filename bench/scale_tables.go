package main

import (
	"math"
	"strconv"
)

// scaleTables make a table of each workload: a line for each size, a column for each metric. The last one is calculated.
func scaleTables(rows []row, all []workload) []grid {
	found := collect(rows)
	var grids []grid
	for i := range all {
		w := &all[i]
		metrics := metricsOf(rows, w.name, anyParameter)
		g := grid{title: "Over " + w.noun, about: w.about, header: []string{w.noun}}
		for _, m := range metrics {
			g.header = append(g.header, m.String())
		}
		for _, parameter := range w.parameters {
			line := []string{parameter}
			for _, m := range metrics {
				line = append(line, cellText(m, found[cell{w.name, parameter, subject, m.name}], nil, subject))
			}
			g.rows = append(g.rows, line)
		}
		grids = append(grids, g)
	}
	if g, ok := cluster(found); ok {
		grids = append(grids, g)
	}
	return grids
}

// cluster calculates what several masters give from what one gave at a concurrency of 100. It reports false where that was not measured.
func cluster(found results) (grid, bool) {
	one := func(m metric) float64 { return found[cell{"scale-concurrency", "100", subject, m.name}].median() }
	rate, redis, worker := one(throughput), one(redisCPU), one(processCPU)
	if math.IsNaN(rate) {
		return grid{}, false
	}
	g := grid{
		title: "A Cluster of n masters, by calculation",
		about: "Not measured: n times what one master gave above at a concurrency of 100. A queue is on one node, and no call spans two, so that masters do " +
			"not wait for each other; it takes at least n queues, on n nodes. Redis' limit is one second over its CPU time to start and to drain a task, and holds " +
			"where workers, producers and network keep up. What is not in it: network between machines, replicas, queues of unequal load, and " +
			"several queues that fall on one node.",
		header: []string{"masters", "drained, tasks/s", "cores for workers at that rate", "Redis' limit, tasks/s started and drained"},
	}
	for _, n := range []float64{1, 2, 3, 6} {
		g.rows = append(g.rows, []string{strconv.Itoa(int(n)), show(n * rate), show(n * rate * worker / micro), show(n * micro / redis)})
	}
	return g, true
}
