package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

const subject = "redtask"

// entrants lists who is measured, in the order of the tables.
func entrants() []entrant {
	fast := asynqFastEntrant()
	fast.only = "^(pick-up|idle)$" // a short poll changes nothing else
	bullmq, river := bullmqEntrant(), riverEntrant()
	bullmq.optional, river.optional, river.outside = true, true, true
	return []entrant{
		redtaskEntrant(),
		asynqEntrant(), fast, taskqEntrant(), gocraftEntrant(), bullmq, river,
		limitScriptEntrant(),
		limitPipelineEntrant(),
		limitEvalshaEntrant(),
	}
}

func findEntrant(name string) (*entrant, error) {
	all := entrants()
	i := slices.IndexFunc(all, func(e entrant) bool { return e.name == name })
	if i < 0 {
		return nil, fmt.Errorf("unknown system %q: use %s", name, strings.Join(names(all), ", "))
	}
	return &all[i], nil
}

func names(all []entrant) []string {
	found := make([]string, len(all))
	for i := range all {
		found[i] = all[i].name
	}
	return found
}

// choose picks the entrants of a run; notes say who is left out, and why.
func choose(all []entrant, wanted, flags []string) (chosen []entrant, notes []string, err error) {
	for _, name := range wanted {
		if !slices.Contains(names(all), name) {
			return nil, nil, fmt.Errorf("unknown system %q: use %s", name, strings.Join(names(all), ", "))
		}
	}
	for _, e := range all {
		asked := slices.Contains(wanted, e.name) || slices.Contains(flags, e.name)
		if len(wanted) > 0 && !asked || e.optional && !asked {
			continue
		}
		if e.missing != nil {
			if why := e.missing(); why != "" {
				notes = append(notes, e.name+" is left out: "+why)
				continue
			}
		}
		chosen = append(chosen, e)
	}
	return chosen, notes, nil
}

func (e *entrant) takesPart(workload string) bool {
	return e.only == "" || regexp.MustCompile(e.only).MatchString(workload)
}
