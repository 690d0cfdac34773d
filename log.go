package redtask

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// MaxLogLines bounds [TaskOptions.LogLines].
const MaxLogLines = 10_000

const (
	maxLogLine      = 8 << 10
	maxLogBytes     = 1 << 20   // of one run that are unsent
	maxLogItemBytes = 256 << 10 // in one item of a batch
	maxLogItemLines = 512       // as many as one call of Redis takes without holding up others
	logCut          = "cut"     // the attribute of a line that was longer than maxLogLine
)

// runLog is what a run has logged and Redis does not have yet. It is bounded: while Redis is away, older lines go first. What Redis counts
// as logged tells how many.
type runLog struct {
	run  *Run
	keep int
	json slog.Handler

	mu     sync.Mutex
	lines  []string
	bytes  int // in lines
	first  int // number of the first of lines in the run, from 1
	active bool
	queued bool // an item that takes lines is queued
	closed bool
}

func newRunLog(r *Run, o *TaskOptions) *runLog {
	l := &runLog{run: r, keep: o.LogLines, first: 1}
	l.json = slog.NewJSONHandler(l, &slog.HandlerOptions{Level: o.LogLevel, ReplaceAttr: timeInMilliseconds})
	return l
}

// timeInMilliseconds is how all times are written in Redis.
func timeInMilliseconds(groups []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey && len(groups) == 0 && a.Value.Kind() == slog.KindTime {
		return slog.Int64(a.Key, a.Value.Time().UnixMilli())
	}
	return a
}

// handler says in each line which run wrote it.
func (l *runLog) handler() slog.Handler {
	attrs := []slog.Attr{slog.Int64("epoch", l.run.epoch), slog.Int("attempt", l.run.attempt)}
	return logHandler{l.json, l.run.engine}.WithAttrs(attrs)
}

// logHandler counts time by the clock of Redis.
type logHandler struct {
	slog.Handler
	engine *engine
}

func (h logHandler) Handle(ctx context.Context, record slog.Record) error {
	if !record.Time.IsZero() {
		record.Time = record.Time.Add(ms(h.engine.clockOffset.Load()))
	}
	return h.Handler.Handle(ctx, record)
}

func (h logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return logHandler{h.Handler.WithAttrs(attrs), h.engine}
}

func (h logHandler) WithGroup(name string) slog.Handler {
	return logHandler{h.Handler.WithGroup(name), h.engine}
}

// Write takes one line of the JSON handler.
func (l *runLog) Write(text []byte) (int, error) {
	line := bytes.TrimSuffix(text, []byte("\n"))
	if len(line) > maxLogLine {
		line = cutLine(line)
	}
	if l.add(string(line)) {
		l.run.engine.committer.put(item{op: opLog, run: l.run})
	}
	return len(text), nil
}

// add reports whether an item must be queued that takes the line.
func (l *runLog) add(line string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.lines, l.bytes = append(l.lines, line), l.bytes+len(line)
	for len(l.lines) > l.keep || l.bytes > maxLogBytes {
		l.drop(1)
	}
	if l.queued || !l.active {
		return false
	}
	l.queued = true
	return true
}

// drop takes lines away from the front; mu is held.
func (l *runLog) drop(n int) {
	for i := range n {
		l.bytes -= len(l.lines[i])
		l.lines[i] = "" // the array outlives it
	}
	l.lines, l.first = l.lines[n:], l.first+n
}

// activate lets lines out: those of a reload's new instance wait until it takes over.
func (l *runLog) activate() {
	l.mu.Lock()
	l.active = true
	l.queued = len(l.lines) > 0
	queued := l.queued
	l.mu.Unlock()
	if queued {
		l.run.engine.committer.put(item{op: opLog, run: l.run})
	}
}

// close refuses further lines, and sends those there are: what is queued after that comes after them.
func (l *runLog) close() {
	l.mu.Lock()
	last := l.active && !l.closed && len(l.lines) > 0
	l.closed = true
	l.mu.Unlock()
	if last {
		l.run.engine.committer.put(item{op: opLog, run: l.run})
	}
}

// endLog drops what was logged since, and what will be: another run has the task.
func (r *Run) endLog() {
	if r.log == nil {
		return
	}
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	r.log.closed, r.log.lines, r.log.bytes = true, nil, 0
}

// take returns what an item says: how many lines the log keeps, the number of the first one, and at most so many lines; nil if there are
// none. left: there are more; ended: no others will come.
func (l *runLog) take(most int) (fields []string, left, ended bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, size := 0, 0
	for n < min(len(l.lines), most) && size < maxLogItemBytes {
		size += len(l.lines[n])
		n++
	}
	if n > 0 {
		fields = append([]string{strconv.Itoa(l.keep), strconv.Itoa(l.first)}, l.lines[:n]...)
		l.drop(n)
	}
	l.queued = len(l.lines) > 0
	return fields, l.queued, l.closed
}

// linesTaken are the lines of a batch, and the items that take what they left.
type linesTaken struct {
	lines       int
	first, last []item
}

// full ends a batch: of a run that has ended nothing may pass its lines.
func (t *linesTaken) full() bool { return t.lines >= maxLogItemLines || t.first != nil }

func (t *linesTaken) take(i *item) {
	fields, left, ended := i.run.log.take(maxLogItemLines - t.lines)
	i.fields = fields
	t.lines += max(0, len(fields)-2)
	switch {
	case left && ended:
		t.first = []item{{op: opLog, run: i.run}}
	case left: // a run that logs faster than Redis takes it holds up no other
		t.last = append(t.last, item{op: opLog, run: i.run})
	}
}

func (t *linesTaken) putBack(items []item) []item {
	if t.first == nil && t.last == nil {
		return items
	}
	return slices.Concat(t.first, items, t.last)
}

// cutLine keeps of a line's members, in their order, those that fit, and marks it. It stays JSON. A long string keeps its beginning, in half
// of the room that is left: what follows it is to be there as well.
func cutLine(line []byte) []byte {
	const room = maxLogLine - len(`,"`+logCut+`":true}`)
	decoder := json.NewDecoder(bytes.NewReader(line))
	_, _ = decoder.Token() // the brace; slog wrote it
	cut := make([]byte, 0, maxLogLine)
	for decoder.More() {
		var value json.RawMessage
		key, _ := decoder.Token()
		name, _ := key.(string)
		if decoder.Decode(&value) != nil {
			break
		}
		value = shorten(value, (room-len(cut)-len(name))/2)
		member := "," + quote(name) + ":" + string(value)
		if len(cut)+len(member) <= room {
			cut = append(cut, member...)
		}
	}
	cut = append(cut, `,"`+logCut+`":true}`...)
	cut[0] = '{'
	return cut
}

// shorten cuts a JSON string to so many bytes, with its quotes; not where little more than the mark would be left.
func shorten(value json.RawMessage, limit int) json.RawMessage {
	const least, mark = 100, len(`"… (cut)"`)
	var text string
	if len(value) <= limit || limit < least || json.Unmarshal(value, &text) != nil {
		return value
	}
	for most := limit - mark; len(value) > limit; most /= 2 { // what must be escaped is longer
		value = []byte(quote(truncate(text, most)))
	}
	return value
}

// LogLine is one line of a task's log.
type LogLine struct {
	Time    time.Time       `json:"time,omitzero"` // by the clock of Redis
	Level   slog.Level      `json:"level"`
	Message string          `json:"msg"`
	Epoch   int64           `json:"epoch"` // of the run that wrote it
	Attempt int             `json:"attempt"`
	Attrs   json.RawMessage `json:"attrs,omitempty"` // what else it has, a JSON object, or nil; "cut":true in it: the line was longer than 8 KiB
}

// Log reads the last lines that a task's runs wrote with [Run.Logger], the oldest first: as many as [TaskOptions.LogLines] of its
// registration says, or those that were written since. Lines of all runs of the ID are there, until the record goes. It is empty for a
// task that has logged nothing; [ErrNotFound] if there is no record. A line that the library did not write is a Message.
func (c *Client) Log(ctx context.Context, id string) ([]LogLine, error) {
	if err := c.check(id); err != nil {
		return nil, err
	}
	found, err := c.queue.Log(ctx, id)
	if err != nil {
		return nil, public(err)
	}
	lines := make([]LogLine, len(found))
	for i, text := range found {
		lines[i] = parseLogLine(text)
	}
	return lines, nil
}

// parseLogLine takes the first of each of the library's own members: an attribute of the task may have the same name.
func parseLogLine(text string) LogLine {
	var line LogLine
	attrs, ok := line.parse(json.NewDecoder(strings.NewReader(text)))
	if !ok {
		return LogLine{Message: text}
	}
	if len(attrs) > 0 {
		line.Attrs = append(append([]byte{'{'}, attrs[1:]...), '}')
	}
	return line
}

// parse returns the members that are not the library's own, each after a comma.
func (l *LogLine) parse(decoder *json.Decoder) (attrs []byte, ok bool) {
	if brace, err := decoder.Token(); err != nil || brace != json.Delim('{') {
		return nil, false
	}
	var milliseconds int64
	own := map[string]any{
		slog.TimeKey: &milliseconds, slog.LevelKey: &l.Level, slog.MessageKey: &l.Message, "epoch": &l.Epoch, "attempt": &l.Attempt,
	}
	for decoder.More() {
		var value json.RawMessage
		key, err := decoder.Token()
		name, isName := key.(string)
		if err != nil || !isName || decoder.Decode(&value) != nil {
			return nil, false
		}
		if field := own[name]; field != nil && json.Unmarshal(value, field) == nil {
			delete(own, name)
			continue
		}
		attrs = append(append(append(append(attrs, ','), quote(name)...), ':'), value...)
	}
	_, err := decoder.Token() // the closing brace
	if milliseconds > 0 {
		l.Time = time.UnixMilli(milliseconds)
	}
	return attrs, err == nil
}

// String is for people: `12:00:00.000 INFO imported {"rows":7}`.
func (l LogLine) String() string {
	text := l.Time.Format("15:04:05.000") + " " + l.Level.String() + " " + l.Message
	if l.Attrs != nil {
		text += " " + string(l.Attrs)
	}
	return text
}
