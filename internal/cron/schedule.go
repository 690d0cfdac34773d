// Package cron is the task redtask/cron: it starts tasks at the times that entries in Redis say. Any number of them may work in one queue;
// each firing is one atomic script, so none is made twice and nobody leads.
package cron

import (
	"errors"
	"fmt"
	"math/bits"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// Schedule says when an entry fires.
//
// A clock that is set forward skips wall times, one that is set back has some twice. As Vixie cron does, what runs every hour, or more often, goes by
// the time that passes; what names its hours goes by the wall: once a day, also on those two days.
type Schedule struct {
	every    time.Duration // of @every; 0: spec
	spec     *cron.SpecSchedule
	location *time.Location
}

var parser = cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor)

// Parse reads five fields (minute, hour, day of the month, the month, day of the week), a descriptor such as @daily, or @every with a duration, in a
// zone of the IANA database; "" is UTC.
func Parse(expression, zone string) (*Schedule, error) {
	location, err := time.LoadLocation(zone)
	if zone == "Local" {
		err = errors.New("it is another one in each process")
	}
	if err != nil {
		err = fmt.Errorf("zone %.80q: %w; use a name such as Europe/Berlin (import time/tzdata where the system has none)", zone, err)
	}
	s, fault := parse(expression)
	if err := errors.Join(fault, err); err != nil {
		return nil, err
	}
	s.location = location
	if s.Next(time.Now()).IsZero() {
		return nil, fmt.Errorf("schedule %.80q never fires: no such day comes in the next five years", expression)
	}
	return s, nil
}

func parse(expression string) (*Schedule, error) {
	if strings.HasPrefix(expression, "TZ=") || strings.HasPrefix(expression, "CRON_TZ=") {
		return nil, fmt.Errorf("schedule %.80q: give the zone in its own field", expression)
	}
	parsed, err := parser.Parse(expression)
	if err != nil {
		return nil, fmt.Errorf("schedule %.80q: %w; use `minute hour day-of-month month day-of-week`, @daily, @hourly, …, or @every 10m", expression, explain(expression, err))
	}
	s := &Schedule{}
	switch parsed := parsed.(type) {
	case cron.ConstantDelaySchedule:
		s.every = parsed.Delay
		if rest := strings.TrimSpace(strings.TrimPrefix(expression, "@every")); s.every.String() != rest {
			if d, err := time.ParseDuration(rest); err != nil || d < time.Second || d != d.Truncate(time.Second) {
				return nil, fmt.Errorf("schedule %.80q: use whole seconds, at least 1s", expression)
			}
		}
	case *cron.SpecSchedule:
		s.spec = parsed
		s.spec.Location = time.UTC // of wall times
	}
	return s, nil
}

// explain names the fields that are wrong, all of them: the parser stops at the first one, and does not say which it is.
func explain(expression string, err error) error {
	fields := strings.Fields(expression)
	if len(fields) != 5 {
		return err
	}
	var faults []string
	for i, name := range []string{"minute", "hour", "day of the month", "month", "day of the week"} {
		alone := []string{"*", "*", "*", "*", "*"}
		alone[i] = fields[i]
		if _, err := parser.Parse(strings.Join(alone, " ")); err != nil {
			faults = append(faults, name+": "+err.Error())
		}
	}
	return errors.New(strings.Join(faults, ", "))
}

// Next is the first time after another one at which the entry fires; zero if there is none. @every counts from that other one.
func (s *Schedule) Next(after time.Time) time.Time {
	switch {
	case s.every > 0:
		return after.Add(s.every)
	case s.everyHour():
		return s.nextAsTimePasses(after)
	}
	return s.nextOnTheWall(after)
}

// After is the first time after now, for an entry that was due at another time: @every keeps its beat.
func (s *Schedule) After(due, now time.Time) time.Time {
	if s.every == 0 {
		return s.Next(now)
	}
	if due.After(now) {
		return due
	}
	beats := int64(now.Sub(due)/s.every) + 1
	return due.Add(time.Duration(beats * int64(s.every)))
}

// everyHour reports whether all hours are named.
func (s *Schedule) everyHour() bool { return bits.OnesCount64(s.spec.Hour&(1<<24-1)) == 24 }

func (s *Schedule) nextOnTheWall(after time.Time) time.Time {
	_, behind := after.Add(-24 * time.Hour).In(s.location).Zone()
	first := s.nextFrom(s.wall(after), after)
	earlier := s.nextFrom(after.UTC().Add(time.Duration(behind)*time.Second), after)
	if first.IsZero() || !earlier.IsZero() && earlier.Before(first) {
		return earlier
	}
	return first
}

func (s *Schedule) nextFrom(wall, after time.Time) time.Time {
	for {
		if wall = s.spec.Next(wall); wall.IsZero() {
			return wall
		}
		if at := s.instant(wall); at.After(after) {
			return at
		}
	}
}

// nextAsTimePasses looks from one change of the clocks to the next: in between the wall goes as time does.
func (s *Schedule) nextAsTimePasses(after time.Time) time.Time {
	wall := s.wall(after)
	for at := after; ; {
		next := s.spec.Next(wall)
		if next.IsZero() {
			return next
		}
		found := at.Add(next.Sub(wall))
		_, end := at.In(s.location).ZoneBounds()
		if end.IsZero() || found.Before(end) {
			return found
		}
		at, wall = end, s.wall(end)
		if s.spec.Next(wall.Add(-time.Second)).Equal(wall) {
			return at
		}
	}
}

// wall is what a clock in the zone shows, as if it were UTC.
func (s *Schedule) wall(t time.Time) time.Time {
	_, offset := t.In(s.location).Zone()
	return t.UTC().Add(time.Duration(offset) * time.Second)
}

// instant is when a clock in the zone shows a wall time for the first time. One that it skips counts as if the clock had not been set
// forward: the time between two days stays 24 hours.
func (s *Schedule) instant(wall time.Time) time.Time {
	const day = 24 * time.Hour
	_, before := wall.Add(-day).In(s.location).Zone()
	_, behind := wall.Add(day).In(s.location).Zone()
	first := wall.Add(-time.Duration(before) * time.Second)
	second := wall.Add(-time.Duration(behind) * time.Second)
	if !s.wall(first).Equal(wall) && s.wall(second).Equal(wall) {
		return second
	}
	return first
}
