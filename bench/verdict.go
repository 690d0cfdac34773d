package main

import (
	"fmt"
	"math"
	"strings"
)

// verdicts say for each target what it is, what was reached, whether that is enough, and what part of the limit it is.
func verdicts(found results) grid {
	g := grid{title: "What redtask has to reach", header: []string{"work", "target", "reached", "yes?", "of the limit"}}
	for _, t := range targets() {
		var wanted, reached []string
		verdict := "yes"
		for i := range t.wants {
			w := &t.wants[i]
			value := w.reached(found)
			wanted, reached = append(wanted, w.text(w.least)), append(reached, w.text(value))
			switch {
			case math.IsNaN(value) && verdict == "yes":
				verdict = "-"
			case !math.IsNaN(value) && !w.enough(value):
				verdict = "no"
			}
		}
		g.rows = append(g.rows, []string{t.work, strings.Join(wanted, ", "), strings.Join(reached, ", "), verdict, t.share(found)})
	}
	return g
}

// reached is the number itself, or how many times as good as the other's it is; NaN where one was not measured.
func (w *want) reached(found results) float64 {
	ours := found[cell{w.workload, w.parameter, subject, w.metric.name}]
	if len(ours) == 0 {
		return math.NaN()
	}
	if w.against == "" {
		return ours.median()
	}
	at := w
	if w.at != nil {
		at = w.at
	}
	if w.against != fastest {
		return ratio(w.metric, ours, found[cell{at.workload, at.parameter, w.against, at.metric.name}])
	}
	least := math.NaN()
	for c, other := range found {
		if c.workload == at.workload && c.parameter == at.parameter && c.metric == at.metric.name && isPeer(c.system) {
			if times := ratio(w.metric, ours, other); math.IsNaN(least) || times < least {
				least = times
			}
		}
	}
	return least
}

func (w *want) enough(value float64) bool {
	if w.against == "" && !w.metric.more {
		return value <= w.least
	}
	return value >= w.least
}

func (w *want) text(value float64) string {
	switch {
	case math.IsNaN(value):
		return "-"
	case isLimit(w.against):
		return fmt.Sprintf("%.0f%% of %s", value*100, w.against)
	case w.against == subject:
		return fmt.Sprintf("%sx that of %s", show(value), w.at.parameter)
	case w.against != "" && w.at != nil:
		return fmt.Sprintf("%sx %s in %s, %s", show(value), w.against, w.at.workload, w.at.parameter)
	case w.against != "":
		return fmt.Sprintf("%sx %s", show(value), w.against)
	}
	return fmt.Sprintf("%s %s %s", w.metric.name, show(value), w.metric.unit)
}

func (t *target) share(found results) string {
	if t.limit == "" {
		return "-"
	}
	w := t.wants[0]
	w.against, w.at = t.limit, nil
	share := w.reached(found)
	if math.IsNaN(share) || math.IsInf(share, 0) {
		return "-"
	}
	return w.text(share)
}
