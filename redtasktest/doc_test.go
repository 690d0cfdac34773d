package redtasktest_test

import (
	"context"
	"fmt"
	"go/parser"
	"go/token"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// exampleT stands in for the *testing.T that an Example does not have.
type exampleT struct {
	testing.TB
	cleanups []func()
}

func newT() *exampleT { return &exampleT{} }

func (t *exampleT) end() {
	for _, cleanup := range slices.Backward(t.cleanups) {
		cleanup()
	}
}

func (t *exampleT) Cleanup(cleanup func())            { t.cleanups = append(t.cleanups, cleanup) }
func (t *exampleT) Context() context.Context          { return context.Background() }
func (t *exampleT) Failed() bool                      { return false }
func (t *exampleT) Helper()                           {}
func (t *exampleT) Errorf(format string, args ...any) { fmt.Printf(format+"\n", args...) }
func (t *exampleT) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

// The tests that the package's documentation shows are those of example_test.go.
func TestDocumentationIsCompiled(t *testing.T) {
	t.Parallel()
	file, err := parser.ParseFile(token.NewFileSet(), "harness.go", nil, parser.ParseComments|parser.PackageClauseOnly)
	require.NoError(t, err)
	tests, err := os.ReadFile("example_test.go")
	require.NoError(t, err)
	compiled := strings.ReplaceAll(string(tests), "\tt.Parallel()\n", "")
	shown := 0
	for block := range strings.SplitSeq(file.Doc.Text(), "\tfunc Test") {
		code, _, ended := strings.Cut("\tfunc Test"+block, "\n\t}\n")
		if !ended {
			continue
		}
		require.Contains(t, compiled, strings.ReplaceAll(code[1:], "\n\t", "\n")+"\n}\n")
		shown++
	}
	require.Equal(t, 2, shown)
}
