// Package docs_test keeps README.md, SECURITY.md and docs/*.md true: their Go code compiles, and what they name exists.
//
// A block of Go code is one of three things. One that begins with `package` is a whole program, in a package of its own. All other blocks
// of a document share a package and its imports are found by themselves: one that holds declarations only is a file of it; any other is the
// body of a function whose parameters are fragmentParameters. What a document uses without showing it is declared in testdata, in a file of
// its name. Each fence says its language, so that no block is left out by accident.
package docs_test

import (
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const fragmentParameters = `ctx context.Context, client *redtask.Client, rdb redis.UniversalClient, registry *redtask.Registry, ` +
	`runner *redtask.Runner, id string, t *testing.T`

// imports are the packages that a block without an import declaration may use.
var imports = map[string]string{
	"builtin": "github.com/redtask/redtask/builtin", "context": "context", "errors": "errors", "fmt": "fmt", "http": "net/http",
	"json": "encoding/json", "log": "log", "os": "os", "redis": "github.com/redis/go-redis/v9", "redtask": "github.com/redtask/redtask",
	"redtasktest": "github.com/redtask/redtask/redtasktest", "require": "github.com/stretchr/testify/require", "signal": "os/signal",
	"slices": "slices", "slog": "log/slog", "strings": "strings", "syscall": "syscall", "testing": "testing", "time": "time", "tls": "crypto/tls", "x509": "crypto/x509",
}

var languages = []string{"console", "go", "json", "sh", "text"}

const root = ".." // of the module

type block struct {
	document string // its path from the root of the module
	line     int    // of the first line of code
	language string
	text     string
}

func (b *block) String() string { return fmt.Sprintf("%s:%d", b.document, b.line) }

type document struct {
	path   string
	blocks []block
	prose  string // without the blocks
}

// documents reads README.md, SECURITY.md and docs/*.md.
func documents(t *testing.T) []document {
	t.Helper()
	paths, err := filepath.Glob("*.md")
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	found := []document{readDocument(t, "README.md"), readDocument(t, "SECURITY.md")}
	for _, path := range paths {
		found = append(found, readDocument(t, "docs/"+path))
	}
	return found
}

func readDocument(t *testing.T, path string) document {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	require.NoError(t, err)
	d := document{path: path}
	var open *block
	for i, line := range strings.SplitAfter(string(text), "\n") {
		language, fence := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case fence && open == nil:
			require.Contains(t, languages, language, "%s:%d: say what the block holds", path, i+1)
			open = &block{document: path, line: i + 2, language: language}
		case fence:
			d.blocks = append(d.blocks, *open)
			open = nil
		case open != nil:
			open.text += line
		default:
			d.prose += line
		}
	}
	require.Nil(t, open, "%s: a block without an end", path)
	return d
}

// TestGoBlocksCompile vets all blocks in a module of their own, which uses this one as a user's does.
func TestGoBlocksCompile(t *testing.T) {
	t.Parallel()
	module := newModule(t)
	blocks := 0
	for _, d := range documents(t) {
		for _, b := range d.blocks {
			if b.language == "go" {
				blocks++
				source, directory := sourceOf(t, &b)
				write(t, filepath.Join(module, directory, fmt.Sprintf("block%d.go", blocks)), source)
			}
		}
	}
	require.NotZero(t, blocks)
	hidden, err := filepath.Glob("testdata/*.go")
	require.NoError(t, err)
	for _, file := range hidden {
		name := strings.TrimSuffix(filepath.Base(file), ".go")
		require.DirExists(t, filepath.Join(module, name), "%s belongs to no document", file)
		write(t, filepath.Join(module, name, "hidden.go"), read(t, "docs/"+file))
	}
	vet := exec.CommandContext(t.Context(), "go", "vet", "./...")
	vet.Dir = module
	vet.Env = append(os.Environ(), "GOWORK=off", "GOPROXY=off", "GOFLAGS=")
	out, err := vet.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// newModule makes a module with the requirements of this one, which it replaces by its directory.
func newModule(t *testing.T) string {
	t.Helper()
	directory := t.TempDir()
	absolute, err := filepath.Abs(root)
	require.NoError(t, err)
	const path = "github.com/redtask/redtask"
	text := strings.Replace(read(t, "go.mod"), "module "+path, "module blocks", 1)
	write(t, filepath.Join(directory, "go.mod"), fmt.Sprintf("%s\nrequire %s v0.0.0\n\nreplace %s => %s\n", text, path, path, absolute))
	write(t, filepath.Join(directory, "go.sum"), read(t, "go.sum"))
	return directory
}

func write(t *testing.T, path, text string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
}

// sourceOf makes a file of a block, and says in which directory below docs it belongs.
func sourceOf(t *testing.T, b *block) (source, directory string) {
	t.Helper()
	requireFormatted(t, b)
	name := strings.ToLower(strings.NewReplacer("/", "_", ".", "_", "-", "_").Replace(b.document))
	absolute, err := filepath.Abs(filepath.Join(root, b.document))
	require.NoError(t, err)
	position := fmt.Sprintf("//line %s:%d\n", absolute, b.line)
	if strings.HasPrefix(b.text, "package ") {
		return position + b.text, fmt.Sprintf("%s_%d", name, b.line)
	}
	head := "package " + name + "\n"
	if file, err := parser.ParseFile(token.NewFileSet(), "", head+b.text, 0); err == nil {
		return head + importsOf(file) + position + b.text, name
	}
	wrapped := fmt.Sprintf("\nfunc block%d(%s) error {\n\t{\n%s%s", b.line, fragmentParameters, position, b.text)
	file, err := parser.ParseFile(token.NewFileSet(), "", head+wrapped+"}}", 0)
	require.NoError(t, err, b)
	return head + importsOf(file) + wrapped + tailOf(file), name
}

func requireFormatted(t *testing.T, b *block) {
	t.Helper()
	formatted, err := format.Source([]byte(b.text))
	require.NoError(t, err, b)
	require.Equal(t, string(formatted), b.text, "%s is not as gofmt has it", b)
}

// importsOf declares the imports of a file that has none.
func importsOf(file *ast.File) string {
	used := map[string]bool{}
	ast.Inspect(file, func(node ast.Node) bool {
		if selector, ok := node.(*ast.SelectorExpr); ok {
			if name, ok := selector.X.(*ast.Ident); ok && imports[name.Name] != "" {
				used[imports[name.Name]] = true
			}
		}
		return true
	})
	text := ""
	for _, path := range slices.Sorted(maps.Keys(used)) {
		text += fmt.Sprintf("import %q\n", path)
	}
	return text
}

// tailOf ends a fragment: its variables are used, and it returns.
func tailOf(file *ast.File) string {
	function := file.Decls[len(file.Decls)-1].(*ast.FuncDecl)
	statements := function.Body.List[0].(*ast.BlockStmt).List
	used := ""
	for i, statement := range statements {
		switch statement := statement.(type) {
		case *ast.AssignStmt:
			if statement.Tok == token.DEFINE {
				for _, variable := range statement.Lhs {
					used += "\t\t_ = " + variable.(*ast.Ident).Name + "\n"
				}
			}
		case *ast.ReturnStmt:
			if i == len(statements)-1 {
				return "\t}\n}\n"
			}
		}
	}
	return used + "\t}\n\treturn nil\n}\n"
}

var link = regexp.MustCompile(`\]\(([^)\s]+)\)`)

func TestLinksResolve(t *testing.T) {
	t.Parallel()
	for _, d := range documents(t) {
		for _, found := range link.FindAllStringSubmatch(d.prose, -1) {
			target := found[1]
			if strings.HasPrefix(target, "https://") {
				continue
			}
			path, anchor, _ := strings.Cut(target, "#")
			file := filepath.Join(root, filepath.Dir(d.path), path)
			if path == "" {
				file = filepath.Join(root, d.path)
			}
			require.FileExists(t, file, "%s links to %s", d.path, target)
			if anchor != "" {
				require.Contains(t, anchors(t, file), anchor, "%s links to %s", d.path, target)
			}
		}
	}
}

// anchors are those that GitHub gives the headings of a document.
func anchors(t *testing.T, file string) []string {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	var found []string
	for _, line := range strings.Split(string(text), "\n") {
		if heading := strings.TrimLeft(line, "#"); heading != line && strings.HasPrefix(heading, " ") {
			anchor := strings.ReplaceAll(strings.ToLower(strings.TrimSpace(heading)), " ", "-")
			found = append(found, regexp.MustCompile(`[^\p{L}\p{N}_-]`).ReplaceAllString(anchor, ""))
		}
	}
	return found
}
