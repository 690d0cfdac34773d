package chaos

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestBreak shows that chaos can fail: each patch in testdata/break breaks a guarantee in the code of the workers, says which faults show
// that, and words of the complaint.
func TestBreak(t *testing.T) {
	if !*breaking {
		t.Skip("make break runs this")
	}
	patches, err := filepath.Glob("testdata/break/*.patch")
	if err != nil || len(patches) == 0 {
		t.Fatalf("no patches: %v", err)
	}
	for _, path := range patches {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".patch"), func(t *testing.T) {
			t.Parallel()
			b, err := readBreak(path)
			if err != nil {
				t.Fatal(err)
			}
			tree := filepath.Join(t.TempDir(), "redtask")
			b.apply(t, tree)
			binary, err := buildWorker(t.TempDir(), filepath.Join(tree, "chaos"))
			if err != nil {
				t.Fatal(err)
			}
			b.expect(t, binary)
		})
	}
}

// broken is one deliberate fault.
type broken struct {
	path   string
	faults []fault
	shows  string
}

func readBreak(path string) (*broken, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	b := &broken{path: path}
	var names []string
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if found, ok := strings.CutPrefix(line, "faults: "); ok {
			names = strings.Split(found, ",")
		}
		if found, ok := strings.CutPrefix(line, "shows: "); ok {
			b.shows = found
		}
	}
	for _, f := range faults() {
		for _, name := range names {
			if f.name == name {
				b.faults = append(b.faults, f)
			}
		}
	}
	if len(b.faults) != len(names) || b.shows == "" {
		return nil, fmt.Errorf("%s: an unknown fault among %q, or nothing that they show: %q", path, names, b.shows)
	}
	return b, nil
}

// apply makes a copy of the repository as it is, with the patch.
func (b *broken) apply(t *testing.T, tree string) {
	path, err := filepath.Abs(b.path)
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range [][]string{
		{"cp", "-r", "..", tree}, {"git", "-C", tree, "apply", path},
	} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", command, err, out)
		}
	}
}

// expect runs the faults, more than once if need be, until one shows the break.
func (b *broken) expect(t *testing.T, binary string) {
	rng := rand.New(rand.NewPCG(*seed, 2))
	var seen []string
	for range 3 {
		for i := range b.faults {
			v := live(t, &episode{
				name: b.faults[i].name, faults: b.faults[i : i+1], seed: rng.Uint64(), length: 15 * time.Second, binary: binary, settle: 20 * time.Second,
			})
			for _, problem := range v.problems {
				if strings.Contains(problem, b.shows) {
					t.Logf("%s, %d problems: %s", v.fault, len(v.problems), problem)
					return
				}
			}
			seen = append(seen, v.problems[:min(3, len(v.problems))]...)
		}
	}
	t.Errorf("chaos did not complain of %q, but of %q", b.shows, seen)
}
