package cron

import (
	"testing"
	"time"
	_ "time/tzdata"

	"github.com/stretchr/testify/require"
)

// What fires in Berlin on the days when the clocks are changed: on 2026-03-29 they go from 02:00 to 03:00, on 2026-10-25 from 03:00 back to
// 02:00.
func TestDaylightSaving(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		schedule, after string
		want            []string
	}{
		"a time that is skipped comes an hour later": {"30 2 * * *", "2026-03-28T00:00:00+01:00", []string{
			"2026-03-28T02:30:00+01:00", "2026-03-29T03:30:00+02:00", "2026-03-30T02:30:00+02:00",
		}},
		"a time that comes twice counts once": {"30 2 * * *", "2026-10-24T00:00:00+02:00", []string{
			"2026-10-24T02:30:00+02:00", "2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00",
		}},
		"also for one who asks between the two": {"30 2 * * *", "2026-10-25T02:10:00+01:00", []string{"2026-10-26T02:30:00+01:00"}},
		"every hour goes by the time that passes, forward": {"0 * * * *", "2026-03-29T00:30:00+01:00", []string{
			"2026-03-29T01:00:00+01:00", "2026-03-29T03:00:00+02:00", "2026-03-29T04:00:00+02:00",
		}},
		"every hour goes by the time that passes, back": {"0 * * * *", "2026-10-25T01:30:00+02:00", []string{
			"2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00", "2026-10-25T03:00:00+01:00",
		}},
		"every ten minutes": {"*/10 * * * *", "2026-03-29T01:45:00+01:00", []string{"2026-03-29T01:50:00+01:00", "2026-03-29T03:00:00+02:00"}},
		"every other hour goes by the wall, forward": {"0 */2 * * *", "2026-03-29T00:30:00+01:00", []string{
			"2026-03-29T03:00:00+02:00", "2026-03-29T04:00:00+02:00",
		}},
		"two times that are skipped come an hour later": {"0,30 2 * * *", "2026-03-28T12:00:00+01:00", []string{
			"2026-03-29T03:00:00+02:00", "2026-03-29T03:30:00+02:00", "2026-03-30T02:00:00+02:00",
		}},
		"midnight is there on both days": {"@daily", "2026-10-25T00:00:00+02:00", []string{"2026-10-26T00:00:00+01:00"}},
		"@every knows no zone":           {"@every 1h", "2026-10-25T01:30:00+02:00", []string{"2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00"}},
	} {
		s, err := Parse(c.schedule, "Europe/Berlin")
		require.NoError(t, err, name)
		at, err := time.Parse(time.RFC3339, c.after)
		require.NoError(t, err)
		for _, want := range c.want {
			at = s.Next(at)
			require.Equal(t, want, at.In(s.location).Format(time.RFC3339), name)
		}
	}
}

// Lord Howe Island shifts by half an hour, Cairo at midnight, and Apia had no 30 December 2011.
func TestOddZones(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ schedule, zone, after, want string }{
		{"15 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00:00+10:30", "2026-10-04T02:45:00+11:00"},
		{"0 * * * 5", "Africa/Cairo", "2026-04-23T23:30:00+02:00", "2026-04-24T01:00:00+03:00"},
		{"0 12 * * *", "Pacific/Apia", "2011-12-29T13:00:00-10:00", "2011-12-31T12:00:00+14:00"},
		{"0 0 29 2 *", "", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"},
	} {
		s, err := Parse(c.schedule, c.zone)
		require.NoError(t, err)
		after, err := time.Parse(time.RFC3339, c.after)
		require.NoError(t, err)
		require.Equal(t, c.want, s.Next(after).In(s.location).Format(time.RFC3339), c.zone)
	}
}

// @every keeps its beat, however late somebody looks.
func TestEveryKeepsItsBeat(t *testing.T) {
	t.Parallel()
	s, err := Parse("@every 90s", "")
	require.NoError(t, err)
	due := time.Unix(1000, 0)
	for late, want := range map[time.Duration]int64{-time.Second: 1000, 0: 1090, time.Second: 1090, 89 * time.Second: 1090, 90 * time.Second: 1180, time.Hour: 1000 + 41*90} {
		require.Equal(t, want, s.After(due, due.Add(late)).Unix(), late)
	}
}

func TestBadSchedules(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ schedule, zone, want string }{
		{"", "", "schedule"},
		{"* * * *", "", "expected exactly 5 fields"},
		{"* * * * * *", "", "expected exactly 5 fields"},
		{"61 * * * *", "", "minute: end of range (61) above maximum (59)"},
		{"* 25 * * 7", "", "hour: end of range (25) above maximum (23): 25, day of the week: end of range (7) above maximum (6): 7"},
		{"@often", "", "unrecognized descriptor"},
		{"@every 1ms", "", "at least 1s"},
		{"@every 1500ms", "", "whole seconds"},
		{"@every -1h", "", "at least 1s"},
		{"@every", "", "schedule"},
		{"0 0 30 2 *", "", "never fires"},
		{"TZ=Europe/Berlin 0 0 * * *", "", "in its own field"},
		{"@daily", "Mars/Base", "zone"},
		{"@daily", "Local/../x", "zone"},
		{"@daily", "Local", "zone"},
	} {
		_, err := Parse(c.schedule, c.zone)
		require.ErrorContains(t, err, c.want, c.schedule)
	}
}
