package redtask

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Event kinds that the library publishes. A change of state is an event named as the state, in lower case. A task's own events have
// any other name.
const (
	EventWait          = "wait"           // back in line; data {"reason"}, {"reason","recoveries","runner"} from a dead runner
	EventScheduled     = "scheduled"      // due later; data {"reason"}, {"reason","attempt","error","delay_ms"} where a policy says so
	EventRunning       = "running"        // a run began; data {"attempt","runner"}, after a reload {"reason"} as well
	EventEnded         = "ended"          // final; data is the output
	EventError         = "error"          // final; data {"error"}
	EventException     = "exception"      // final; data {"error"}
	EventStopped       = "stopped"        // final; data null, or {"reason"} for what would have put it back in line
	EventRemoved       = "removed"        // the record is gone
	EventProgress      = "progress"       // data is the report
	EventStuck         = "stuck"          // the task ignores that it was told to stop; data {"method"}
	EventReloadFailed  = "reload_failed"  // the old instance goes on; data {"error"}
	EventControlFailed = "control_failed" // an unknown word on the control channel; data {"error"}
	EventGap           = "gap"            // not from Redis: Watch may have missed events here
)

var reserved = map[string]bool{
	EventWait: true, EventScheduled: true, EventRunning: true, EventEnded: true, EventError: true, EventException: true,
	EventStopped: true, EventRemoved: true, EventProgress: true, EventStuck: true, EventReloadFailed: true, EventControlFailed: true,
	EventGap: true,
}

// Event is what a task emitted, or what happened to it.
type Event struct {
	Name  string          `json:"event"`
	Data  json.RawMessage `json:"data"`
	ID    string          `json:"id"`
	Task  string          `json:"task"`
	Epoch int64           `json:"epoch"` // of the run; a change that no run made has an epoch of its own
	Seq   int64           `json:"seq"`   // from 1 in each epoch, without holes: a hole is a lost event
	At    int64           `json:"at"`    // Redis' clock, Unix ms
}

// Time is when it happened.
func (e Event) Time() time.Time { return time.UnixMilli(e.At) }

// Decode decodes the event's data into value, a pointer.
func (e Event) Decode(value any) error {
	if err := json.Unmarshal(e.Data, value); err != nil {
		return fmt.Errorf("redtask: decode data of event %q: %w", e.Name, err)
	}
	return nil
}

// final reports whether the event is the last one before somebody starts the task again.
func (e Event) final() bool {
	return e.Name == EventRemoved || State(strings.ToUpper(e.Name)).Final()
}

const maxEventName = 64

// Emit publishes an event to everyone who watches the task, with data encoded as JSON. Events of a run arrive in the order of Emit.
// Emit does not wait for Redis, with one exception: with the buffer of unsent events full ([RunnerOptions.EventBuffer]) and Redis well it waits
// for room. With the buffer full and Redis away, or the task told to stop, the event is dropped; watchers see the gap.
// The error says that the name is one of the library's own or the data cannot be encoded.
func (r *Run) Emit(event string, data any) error {
	if event == "" || len(event) > maxEventName || strings.ContainsFunc(event, notPrintable) {
		return fmt.Errorf("%w: event name %.80q: use 1 to %d printable characters", ErrInvalid, event, maxEventName)
	}
	if reserved[event] {
		return fmt.Errorf("%w: event name %q is one of the library's own; choose another", ErrInvalid, event)
	}
	encoded, err := encode("event data", data, r.engine.options.MaxData)
	if err != nil {
		return err
	}
	return r.publish(event, encoded)
}

func notPrintable(c rune) bool { return c < ' ' || c == 0x7f || c == utf8.RuneError }

type heldEvent struct {
	event string
	data  []byte
}

// maxEventBytes bounds a buffer of events beside their number: large ones would fill the memory long before.
const maxEventBytes = 64 << 20

// eventCount is what a bounded buffer of events holds.
type eventCount struct{ events, bytes int }

func (c *eventCount) fits(size, most int) bool {
	return c.events == 0 || c.events < most && c.bytes+size <= maxEventBytes
}

func (c *eventCount) add(size int) {
	c.events++
	c.bytes += size
}

// publish numbers an event and hands it on; no lock but emitMu is held while it waits for room, which keeps the order.
func (r *Run) publish(event string, data []byte) error {
	r.emitMu.Lock()
	defer r.emitMu.Unlock()
	switch {
	case r.closed:
		return r.tooLate("event " + strconv.Quote(event))
	case r.active:
		r.send(event, data)
	case r.heldCount.fits(len(data), r.engine.options.EventBuffer): // a reload's new instance: its events come when, and if, it takes over
		r.held = append(r.held, heldEvent{event, data})
		r.heldCount.add(len(data))
	default:
		r.dropped++
	}
	return nil
}

func (r *Run) send(event string, data []byte) {
	r.seq++
	r.engine.committer.emit(r, r.encodeEvent(event, data))
}

// activate publishes the run's first event, then those that were held for it.
func (r *Run) activate(reason string) {
	r.emitMu.Lock()
	defer r.emitMu.Unlock()
	r.active = true
	data := make([]byte, 0, 96)
	data = strconv.AppendInt(append(data, `{"attempt":`...), int64(r.attempt), 10)
	data = append(append(data, `,"runner":`...), quote(r.engine.runnerID)...)
	if reason != "" {
		data = append(append(data, `,"reason":`...), quote(reason)...)
	}
	r.send(EventRunning, append(data, '}'))
	for _, held := range r.held {
		r.send(held.event, held.data)
	}
	r.held = nil
	r.seq += r.dropped // their numbers are used, so that watchers see the hole
	if r.log != nil {
		r.log.activate()
	}
}

// lastEvent closes the run's events and returns the JSON of the last one without its kind: the script that ends the run adds that.
func (r *Run) lastEvent(data []byte) string {
	r.emitMu.Lock()
	defer r.emitMu.Unlock()
	r.closed = true
	if r.log != nil {
		r.log.close()
	}
	r.seq++
	return r.encodeEvent("", data)
}

// encodeEvent makes the JSON of the event that has the present seq; without a kind only what follows it.
func (r *Run) encodeEvent(kind string, data []byte) string {
	var b strings.Builder
	b.Grow(128 + len(kind) + len(data) + len(r.id) + len(r.name)) // the numbers are the longest rest, 3 of up to 19 digits
	if kind != "" {
		b.WriteString(`{"event":`)
		writeQuoted(&b, kind)
		b.WriteByte(',')
	}
	b.WriteString(`"data":`)
	if data == nil {
		b.WriteString("null")
	}
	b.Write(data)
	b.WriteString(`,"id":`)
	writeQuoted(&b, r.id)
	b.WriteString(`,"task":`)
	writeQuoted(&b, r.name)
	b.WriteString(`,"epoch":`)
	writeInt(&b, r.epoch)
	b.WriteString(`,"seq":`)
	writeInt(&b, r.seq)
	b.WriteString(`,"at":`)
	writeInt(&b, r.engine.now())
	b.WriteByte('}')
	return b.String()
}

func writeInt(b *strings.Builder, n int64) {
	var digits [20]byte
	b.Write(strconv.AppendInt(digits[:0], n, 10))
}

// writeQuoted writes a JSON string; nearly all are plain.
func writeQuoted(b *strings.Builder, text string) {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			encoded, _ := json.Marshal(text) // a string always encodes
			b.Write(encoded)
			return
		}
	}
	b.WriteByte('"')
	b.WriteString(text)
	b.WriteByte('"')
}

func quote(text string) string {
	var b strings.Builder
	writeQuoted(&b, text)
	return b.String()
}

func errorData(text string) []byte { return []byte(`{"error":` + quote(text) + `}`) }

func reasonData(reason string) []byte { return []byte(`{"reason":` + quote(reason) + `}`) }
