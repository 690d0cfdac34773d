package docs_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// sources reads all files of the module with a suffix.
func sources(t *testing.T, suffix string) string {
	t.Helper()
	var text strings.Builder
	require.NoError(t, filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, suffix) {
			return err
		}
		content, err := os.ReadFile(path)
		text.Write(content)
		return err
	}))
	return text.String()
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, path))
	require.NoError(t, err)
	return string(content)
}

var testName = regexp.MustCompile("`((?:Test|Fuzz)[A-Z]\\w*)`")

func TestNamedTestsExist(t *testing.T) {
	t.Parallel()
	tests := setOf(sources(t, "_test.go"), `\nfunc ((?:Test|Fuzz)\w+)\(`)
	for _, d := range documents(t) {
		for _, found := range testName.FindAllStringSubmatch(d.prose, -1) {
			require.True(t, tests[found[1]], "%s names the test %s", d.path, found[1])
		}
	}
}

func TestEachGuaranteeNamesATest(t *testing.T) {
	t.Parallel()
	sections := strings.Split(readDocument(t, "docs/guarantees.md").prose, "\n## ")
	numbered := regexp.MustCompile(`^\d+\. `)
	count := 0
	for _, section := range sections[1:] {
		title, text, _ := strings.Cut(section, "\n")
		if !numbered.MatchString(title) {
			continue
		}
		count++
		require.Regexp(t, testName, text, "the guarantee %q", title)
		require.Contains(t, text, "**Limits.**", "the guarantee %q", title)
	}
	require.Equal(t, 10, count)
}

func TestGoVersionIsThatOfTheModule(t *testing.T) {
	t.Parallel()
	version := matches(read(t, "go.mod"), `\ngo (\d+\.\d+)`)
	require.Len(t, version, 1)
	require.Contains(t, read(t, "README.md"), "Go "+version[0]+" or later")
}

// commands are the shell lines of the documents, and what stands in backquotes.
func commands(d document) []string {
	var lines []string
	for _, b := range d.blocks {
		if b.language == "sh" || b.language == "console" {
			lines = append(lines, strings.Split(b.text, "\n")...)
		}
	}
	for _, found := range inline.FindAllStringSubmatch(d.prose, -1) {
		lines = append(lines, found[1])
	}
	return lines
}

var (
	inline    = regexp.MustCompile("`([^`\n]+)`")
	target    = regexp.MustCompile(`^(?:\$ )?make ([a-z]+)`)
	goRun     = regexp.MustCompile(`go run (\./[\w/]+)(.*)`)
	flagName  = regexp.MustCompile(` -([a-z]+)`)
	variable  = regexp.MustCompile(`\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b`)
	qualified = regexp.MustCompile(`\b((?:redtask|builtin|redtasktest)\.[A-Z]\w*(?:\.[A-Z]\w*)?)`)
	member    = regexp.MustCompile(`^([A-Z]\w*\.[A-Z]\w*)`)
)

func TestNamedCommandsExist(t *testing.T) {
	t.Parallel()
	targets := setOf(read(t, "Makefile"), `\n([a-z]+):`)
	variables := setOf(sources(t, ".go"), `"([A-Z][A-Z0-9_]+)"`)
	for _, d := range documents(t) {
		for _, line := range commands(d) {
			if found := target.FindStringSubmatch(line); found != nil {
				require.True(t, targets[found[1]], "%s: %s", d.path, line)
			}
			for _, found := range variable.FindAllString(line, -1) {
				require.True(t, variables[found], "%s names the variable %s", d.path, found)
			}
			if found := goRun.FindStringSubmatch(line); found != nil {
				requireProgram(t, found[1], found[2], line)
			}
		}
	}
}

func requireProgram(t *testing.T, path, arguments, line string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, path, "*.go"))
	require.NoError(t, err)
	require.NotEmpty(t, files, line)
	program := ""
	for _, file := range files {
		program += read(t, strings.TrimPrefix(file, root+"/"))
	}
	flags := setOf(program, `flag\.\w+\((?:&\w+(?:\.\w+)?, )?"([a-z]+)"`)
	for _, found := range flagName.FindAllStringSubmatch(arguments, -1) {
		require.True(t, flags[found[1]], "the flag %s in: %s", found[1], line)
	}
}

// TestNamedIdentifiersExist checks what stands in backquotes as redtask.Name, redtask.Type.Member or Type.Member.
func TestNamedIdentifiersExist(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	for name, directory := range map[string]string{"redtask": ".", "builtin": "builtin", "redtasktest": "redtasktest"} {
		declare(t, known, name, directory)
	}
	for _, d := range documents(t) {
		for _, code := range inline.FindAllStringSubmatch(d.prose, -1) {
			for _, found := range qualified.FindAllStringSubmatch(code[1], -1) {
				require.True(t, known[found[1]], "%s names %s", d.path, found[1])
			}
			if found := member.FindStringSubmatch(code[1]); found != nil {
				ok := known["redtask."+found[1]] || known["builtin."+found[1]] || known["redtasktest."+found[1]]
				require.True(t, ok, "%s names %s", d.path, found[1])
			}
		}
	}
}

// declare adds a package's exported names: `package.Name`, and `package.Type.Member` for methods and fields.
func declare(t *testing.T, known map[string]bool, name, directory string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, directory, "*.go"))
	require.NoError(t, err)
	require.NotEmpty(t, files, directory)
	for _, path := range files {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		require.NoError(t, err)
		for _, declaration := range file.Decls {
			switch declaration := declaration.(type) {
			case *ast.FuncDecl:
				known[name+"."+receiver(declaration)+declaration.Name.Name] = true
			case *ast.GenDecl:
				for _, spec := range declaration.Specs {
					declareSpec(known, name+".", spec)
				}
			}
		}
	}
}

func receiver(f *ast.FuncDecl) string {
	if f.Recv == nil {
		return ""
	}
	kind := f.Recv.List[0].Type
	if pointer, ok := kind.(*ast.StarExpr); ok {
		kind = pointer.X
	}
	if name, ok := kind.(*ast.Ident); ok {
		return name.Name + "."
	}
	return "generic."
}

func declareSpec(known map[string]bool, prefix string, spec ast.Spec) {
	switch spec := spec.(type) {
	case *ast.ValueSpec:
		for _, name := range spec.Names {
			known[prefix+name.Name] = true
		}
	case *ast.TypeSpec:
		known[prefix+spec.Name.Name] = true
		var fields []*ast.Field
		switch kind := spec.Type.(type) {
		case *ast.StructType:
			fields = kind.Fields.List
		case *ast.InterfaceType:
			fields = kind.Methods.List
		}
		for _, field := range fields {
			for _, name := range field.Names {
				known[prefix+spec.Name.Name+"."+name.Name] = true
			}
		}
	}
}

// TestProtocolIsComplete holds docs/protocol.md against the code: each key, field, event, state and counter is in it.
func TestProtocolIsComplete(t *testing.T) {
	t.Parallel()
	protocol := read(t, "docs/protocol.md")
	for what, names := range map[string][]string{
		"key":     matches(read(t, "internal/store/keys.go"), `base \+ "(\w+)`),
		"prefix":  matches(read(t, "internal/store/store.go"), `prefix \+ ":(\w+)"`),
		"field":   append(matches(read(t, "client.go"), `h\["(\w+)"\]`), "nonce", "reload_data"),
		"runner":  append(matches(read(t, "internal/store/lease.go"), `\n\t\t(?:.*, )?"(\w+)", r\.`), "batch"),
		"event":   matches(read(t, "events.go"), `Event\w+ += "(\w+)"`),
		"state":   matches(read(t, "task.go"), `State = "(\w+)"`),
		"counter": append(matches(sources(t, ".lua"), `HINCRBY', counters, '(\w+)'`), matches(read(t, "engine.go"), `count\("(\w+)"\)`)...),
	} {
		require.NotEmpty(t, names, what)
		for _, name := range names {
			require.Regexp(t, "`[^`\n]*\\b"+name+"\\b[^`\n]*`", protocol, "docs/protocol.md lacks the %s %s", what, name)
		}
	}
}

// TestLogLinesAreExplained holds the list in docs/operations.md against the code: each warning and error that a runner logs is in it, and
// each line of the list is logged.
func TestLogLinesAreExplained(t *testing.T) {
	t.Parallel()
	operations := read(t, "docs/operations.md")
	code := ""
	for _, pattern := range []string{"*.go", "internal/*/*.go", "builtin/*.go"} {
		paths, err := filepath.Glob(filepath.Join(root, pattern))
		require.NoError(t, err)
		for _, path := range paths {
			if !strings.HasSuffix(path, "_test.go") {
				code += read(t, strings.TrimPrefix(path, root+"/"))
			}
		}
	}
	logged := matches(code, `[lL]ogger(?:\(\))?\.(?:Warn|Error)(?:Context)?\((?:ctx, )?"([^"]+)"[^+]`)
	require.Greater(t, len(logged), 20)
	for _, line := range logged {
		require.Regexp(t, "`"+regexp.QuoteMeta(line)+"`", operations, "docs/operations.md does not explain: %s", line)
	}
	_, section, _ := strings.Cut(operations, "| line | do |")
	section, _, _ = strings.Cut(section, "\n\n")
	for _, row := range strings.Split(strings.TrimSpace(section), "\n")[1:] {
		for _, found := range inline.FindAllStringSubmatch(strings.Split(row, "|")[1], -1) {
			require.Regexp(t, regexp.QuoteMeta(found[1]), code, "docs/operations.md explains a line that nobody logs: %s", found[1])
		}
	}
}

func setOf(text, pattern string) map[string]bool {
	set := map[string]bool{}
	for _, match := range matches(text, pattern) {
		set[match] = true
	}
	return set
}

func matches(text, pattern string) []string {
	var found []string
	for _, match := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
		found = append(found, match[1])
	}
	return found
}
