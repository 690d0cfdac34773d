package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	namedFault  = regexp.MustCompile(`name: "([a-z-]+)", what:|name: +"([a-z-]+)",\n? *what:`)
	namedBreak  = regexp.MustCompile("`([0-9]+-[a-z-]+)`")
	backticked  = regexp.MustCompile("`([a-z-]+)`")
	triedFaults = regexp.MustCompile(`(?s)\nTried with (.*?);`)
)

// What the guarantees say of chaos is there: the faults, and a patch for each name that breaks one, all of them told.
func TestGuaranteesNameChaos(t *testing.T) {
	text, err := os.ReadFile("guarantees.md")
	require.NoError(t, err)
	var patches, named, faults []string
	paths, err := filepath.Glob("../chaos/testdata/break/*.patch")
	require.NoError(t, err)
	for _, path := range paths {
		patches = append(patches, strings.TrimSuffix(filepath.Base(path), ".patch"))
	}
	for _, found := range namedBreak.FindAllStringSubmatch(string(text), -1) {
		named = append(named, found[1])
	}
	require.NotEmpty(t, patches)
	require.ElementsMatch(t, patches, named)

	sources, err := filepath.Glob("../chaos/*fault*_test.go")
	require.NoError(t, err)
	for _, path := range sources {
		source, err := os.ReadFile(path)
		require.NoError(t, err)
		for _, found := range namedFault.FindAllStringSubmatch(string(source), -1) {
			faults = append(faults, found[1]+found[2])
		}
	}
	require.Greater(t, len(faults), 30)
	tried := triedFaults.FindAllStringSubmatch(string(text), -1)
	require.Len(t, tried, 9, "all but the one that is looked at after each fault")
	for _, sentence := range tried {
		for _, name := range backticked.FindAllStringSubmatch(sentence[1], -1) {
			require.True(t, slices.Contains(faults, name[1]), "no fault is named %q", name[1])
		}
	}
}
