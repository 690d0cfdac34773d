package redtasktest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/redtask/redtask"
)

// RequireStarted fails the test unless a task of this name was started, in any queue, with data that is equal as JSON. It looks once, at
// tasks in every state; it does not see those that were removed, and sees the new data of those that were reloaded. It returns the oldest that fits.
func (h *Harness) RequireStarted(task string, data any) *redtask.Record {
	h.t.Helper()
	encoded, err := json.Marshal(data)
	if err != nil {
		h.t.Fatalf("redtasktest: encode the data of task %s: %v", task, err)
	}
	want := leaves(encoded)
	all := h.tasks()
	for _, record := range all {
		if record.Task == task && maps.Equal(want, leaves(record.Data)) {
			return record
		}
	}
	h.t.Fatalf("redtasktest: no task %s was started with\n    %s\n%s", task, short(string(encoded)), listing(all, task, want))
	return nil
}

// RequireNotStarted fails the test if a task of this name was started, in any queue.
func (h *Harness) RequireNotStarted(task string) {
	h.t.Helper()
	if found := h.Started(task); len(found) > 0 {
		h.t.Fatalf("redtasktest: task %s was started\n%s", task, listing(found, "", nil))
	}
}

// Started returns the tasks of this name, in any queue and state, the oldest first.
func (h *Harness) Started(task string) []*redtask.Record {
	h.t.Helper()
	return slices.DeleteFunc(h.tasks(), func(record *redtask.Record) bool { return record.Task != task })
}

// tasks reads all tasks but local ones. It goes by their keys, not by lists of states: a task that moves from one state to another
// meanwhile could be in neither when one looks.
func (h *Harness) tasks() []*redtask.Record {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), h.patience())
	defer cancel()
	keys, err := h.scan(ctx, "{*}:task:*")
	if err != nil {
		h.t.Fatalf("redtasktest: %v", err)
	}
	var records []*redtask.Record
	place := map[*redtask.Record]int{}
	line := h.line(ctx)
	for _, key := range keys {
		queue, id, _ := strings.Cut(strings.TrimPrefix(key, h.Prefix+":{"), "}:task:")
		record, err := h.Client.ForQueue(queue).Get(ctx, id)
		switch {
		case errors.Is(err, redtask.ErrNotFound), errors.Is(err, redtask.ErrWrongType):
		case err != nil:
			h.t.Fatalf("redtasktest: read task %s: %v", id, err)
		case !record.Local:
			records = append(records, record)
			place[record] = line[queue+"/"+id]
		}
	}
	slices.SortFunc(records, func(a, b *redtask.Record) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(place[a], place[b]), cmp.Compare(a.Epoch, b.Epoch), cmp.Compare(a.ID, b.ID))
	})
	return records
}

// line tells the place in line, from 1, of the tasks that wait: of those started in one millisecond the line knows the order, and those
// that are no longer in it, place 0, were claimed before, in the order of their epochs.
func (h *Harness) line(ctx context.Context) map[string]int {
	h.t.Helper()
	keys, err := h.scan(ctx, "{*}:wait")
	place := map[string]int{}
	for _, key := range keys {
		queue := strings.TrimSuffix(strings.TrimPrefix(key, h.Prefix+":{"), "}:wait")
		var ids []string
		if err == nil {
			ids, err = h.Redis.LRange(ctx, key, 0, -1).Result()
		}
		slices.Reverse(ids) // the next one to run stands at the right end
		for i, id := range ids {
			place[queue+"/"+id] = i + 1
		}
	}
	if err != nil {
		h.t.Fatalf("redtasktest: read the tasks in line: %v", err)
	}
	return place
}

// listing shows tasks, those of the name first, and in what their data differs from what was wanted.
func listing(records []*redtask.Record, task string, want map[string]string) string {
	const shown = 20
	if len(records) == 0 {
		return "nothing was started"
	}
	slices.SortStableFunc(records, func(a, b *redtask.Record) int {
		return cmp.Compare(strconv.FormatBool(a.Task != task), strconv.FormatBool(b.Task != task))
	})
	var text strings.Builder
	fmt.Fprintf(&text, "started, %d in all:", len(records))
	for _, record := range records[:min(shown, len(records))] {
		fmt.Fprintf(&text, "\n    %s %s in queue %q, %s, with %s", record.Task, record.ID, record.Queue, record.State, short(string(record.Data)))
		if record.Task == task {
			text.WriteString(difference(want, leaves(record.Data)))
		}
	}
	if more := len(records) - shown; more > 0 {
		fmt.Fprintf(&text, "\n    and %d more", more)
	}
	return text.String()
}

// difference lists what is wanted but not there with a minus, and what is there instead with a plus.
func difference(want, got map[string]string) string {
	const shown = 20
	all := maps.Clone(want)
	maps.Copy(all, got)
	var lines []string
	for _, path := range slices.Sorted(maps.Keys(all)) {
		wanted, missing := want[path]
		found, extra := got[path]
		if missing && extra && wanted == found {
			continue
		}
		if missing {
			lines = append(lines, "\n        - "+short(path+" = "+wanted))
		}
		if extra {
			lines = append(lines, "\n        + "+short(path+" = "+found))
		}
	}
	if more := len(lines) - shown; more > 0 {
		lines = append(lines[:shown], fmt.Sprintf("\n        and %d more", more))
	}
	return strings.Join(lines, "")
}

// leaves maps the path of each value in a JSON text, such as `.to[0].name`, to the value: two texts are equal if these are.
func leaves(data []byte) map[string]string {
	found := map[string]string{}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber() // a float64 would make large IDs equal that are not
	var value any
	if !json.Valid(data) || decoder.Decode(&value) != nil {
		found["not JSON"] = string(data)
		return found
	}
	collect(".", value, found)
	return found
}

func collect(path string, value any, found map[string]string) {
	switch value := value.(type) {
	case map[string]any:
		if len(value) == 0 {
			found[path] = "{}"
		}
		for key, member := range value {
			if strings.ContainsAny(key, `.[]"`) || key == "" {
				key = strconv.Quote(key)
			}
			collect(strings.TrimSuffix(path, ".")+"."+key, member, found)
		}
	case []any:
		if len(value) == 0 {
			found[path] = "[]"
		}
		for i, member := range value {
			collect(fmt.Sprintf("%s[%d]", path, i), member, found)
		}
	case json.Number:
		found[path] = number(value)
	default:
		encoded, _ := json.Marshal(value) // it came from JSON
		found[path] = string(encoded)
	}
}

// number writes 1, 1.0 and 1e0 the same way.
func number(n json.Number) string {
	f, err := n.Float64()
	if err != nil || !strings.ContainsAny(n.String(), ".eE") || math.Abs(f) >= 1<<53 {
		return n.String()
	}
	return strconv.FormatFloat(f, 'f', -1, 64)
}

// short cuts what would fill the screen.
func short(text string) string {
	const limit = 500
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit], "") + "… (cut)"
}
