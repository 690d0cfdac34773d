package chaos

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// report prints the table, and puts it where it is published.
func report(t *testing.T, verdicts []*verdict) {
	what := map[string]string{}
	order := map[string]int{}
	for i, f := range faults() {
		what[f.name], order[f.name] = f.what, i+1
	}
	place := func(v *verdict) int {
		if n := order[v.fault]; n > 0 {
			return n
		}
		return len(order) + 1
	}
	slices.SortFunc(verdicts, func(a, b *verdict) int { return cmp.Or(place(a)-place(b), cmp.Compare(a.fault, b.fault)) })
	var text strings.Builder
	text.WriteString("| fault | | times | tasks | runs | recoveries | longest recovery | lost | doubled | Redis' loss |\n")
	text.WriteString("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	sum := verdict{}
	for _, v := range verdicts {
		fmt.Fprintf(&text, "| %s | %s | %d | %d | %d | %d | %s | %d | %d | %s |\n", v.fault, cmp.Or(what[v.fault], "several of these at a time"),
			v.injected, v.tasks, v.runs, v.recoveries, seconds(v.longest), v.lost, v.doubled, loss(v))
		sum.injected, sum.tasks, sum.runs, sum.recoveries = sum.injected+v.injected, sum.tasks+v.tasks, sum.runs+v.runs, sum.recoveries+v.recoveries
		sum.lost, sum.doubled, sum.excused, sum.longest = sum.lost+v.lost, sum.doubled+v.doubled, sum.excused+v.excused, max(sum.longest, v.longest)
	}
	fmt.Fprintf(&text, "| **all** | | %d | %d | %d | %d | %s | **%d** | **%d** | %d |\n",
		sum.injected, sum.tasks, sum.runs, sum.recoveries, seconds(sum.longest), sum.lost, sum.doubled, sum.excused)
	fmt.Printf("\nseed %d, %s\n\n%s\n", *seed, *duration, text.String())
	if *table != "" && !t.Failed() {
		if err := publish(*table, text.String()); err != nil {
			t.Error(err)
		}
	}
}

// loss is what Redis lost, and how long before it broke the oldest of that was acknowledged.
func loss(v *verdict) string {
	if v.window == 0 {
		return fmt.Sprint(v.excused)
	}
	return fmt.Sprintf("%d (%.2f s)", v.excused, v.window.Seconds())
}

func seconds(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}

const (
	markBegin = "<!-- chaos: begin -->\n"
	markEnd   = "<!-- chaos: end -->\n"
)

// publish replaces what stands between the marks.
func publish(path, text string) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, found := strings.Cut(string(old), markBegin)
	_, after, closed := strings.Cut(rest, markEnd)
	if !found || !closed {
		return fmt.Errorf("%s has no marks of chaos", path)
	}
	made := fmt.Sprintf("Made by `make chaos DURATION=%s SEED=%d`:\n\n", *duration, *seed)
	return os.WriteFile(path, []byte(before+markBegin+"\n"+made+text+"\n"+markEnd+after), 0o600)
}
