package store

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// luaFile is one script as it stands in lua/: its header is its contract.
type luaFile struct {
	name, header, code string
}

func luaFiles(t *testing.T) []luaFile {
	t.Helper()
	paths, err := filepath.Glob("lua/*.lua")
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	var files []luaFile
	for _, path := range paths {
		source, err := os.ReadFile(path)
		require.NoError(t, err)
		lines := strings.Split(string(source), "\n")
		begin := slices.IndexFunc(lines, func(line string) bool { return !strings.HasPrefix(line, "--") })
		code := regexp.MustCompile(`(?m)--.*$`).ReplaceAllString(strings.Join(lines[begin:], "\n"), "")
		files = append(files, luaFile{strings.TrimSuffix(filepath.Base(path), ".lua"), strings.Join(lines[:begin], "\n"), code})
	}
	return files
}

func highest(matches [][]string) int {
	n := 0
	for _, match := range matches {
		value, _ := strconv.Atoi(match[1])
		n = max(n, value)
	}
	return n
}

var index = regexp.MustCompile(`\[(\d+)( \.\. [^\]]*)?\]`)

// documented is the highest KEYS or ARGV that a header tells of.
func (f luaFile) documented(array string) int {
	var matches [][]string
	for line := range strings.SplitSeq(f.header, "\n") {
		if strings.HasPrefix(line, "-- "+array+"[") {
			matches = append(matches, index.FindAllStringSubmatch(line, -1)...)
		}
	}
	return highest(matches)
}

// used is the highest KEYS or ARGV that the code reads by number, or by unpacking it into names.
func (f luaFile) used(array string) int {
	n := highest(regexp.MustCompile(array+`\[(\d+)\]`).FindAllStringSubmatch(f.code, -1))
	for _, match := range regexp.MustCompile(`local ([\w, ]+) = unpack\(`+array+`\)`).FindAllStringSubmatch(f.code, -1) {
		n = max(n, strings.Count(match[1], ",")+1)
	}
	return n
}

// shared are parts that are put in front of scripts.
var shared = []string{"prelude", "earliest", "holds", "begins", "stops"}

func TestScriptHeaders(t *testing.T) {
	t.Parallel()
	queue := reflect.TypeFor[*Queue]()
	for _, f := range luaFiles(t) {
		if slices.Contains(shared, f.name) {
			continue
		}
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			caller := regexp.MustCompile(`Called by Queue\.(\w+)`).FindStringSubmatch(strings.ReplaceAll(f.header, "\n-- ", " "))
			require.NotNil(t, caller, "the header says who calls it")
			_, found := queue.MethodByName(caller[1])
			require.True(t, found, "Queue.%s", caller[1])
			require.Contains(t, f.header, "-- Returns ")
			last := f.documented("KEYS")
			require.Contains(t, f.header, fmt.Sprintf("[%d] room\n", last), "the last key of every script")
			require.Equal(t, f.used("KEYS"), last-1, "KEYS: those that it names, and room")
			require.GreaterOrEqual(t, f.documented("ARGV"), f.used("ARGV"), "ARGV")
			require.Equal(t, f.documented("ARGV") > 0, f.used("ARGV") > 0, "ARGV")
		})
	}
}

// Each file is loaded, and each loaded script has its file.
func TestScriptFiles(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("scripts.go")
	require.NoError(t, err)
	loaded := slices.Clone(shared)
	for _, match := range regexp.MustCompile(`load\("(\w+)"[,)]`).FindAllStringSubmatch(string(source), -1) {
		loaded = append(loaded, match[1])
	}
	slices.Sort(loaded)
	loaded = slices.Compact(loaded) // start has two forms
	var files []string
	for _, f := range luaFiles(t) {
		files = append(files, f.name)
	}
	require.ElementsMatch(t, files, loaded)
	named := append(slices.Clone(shared), slices.Collect(maps.Values(digests()))...)
	slices.Sort(named)
	require.ElementsMatch(t, files, slices.Compact(named))
}

func digests() map[string]string {
	names := map[string]string{}
	for _, s := range []script{
		scriptAdopt, scriptCommit, scriptCounts, scriptDue, scriptEnter, scriptEntries, scriptFire, scriptLeases, scriptPromote, scriptRegister,
		scriptReload, scriptRemove, scriptRenew, scriptReschedule, scriptReserve, scriptRestart, scriptRetry, scriptStart, scriptStop, scriptSuspend,
		scriptStartSpecial, scriptSweep, scriptTakeOver, scriptUnregister,
	} {
		names[s.Hash()] = s.name
	}
	return names
}

// allowed are the commands that scripts may call: Redis 6.2 and miniredis have them, and none walks what may be long.
var allowed = strings.Fields(`
	DEL EXISTS GET SET INCR INCRBY HDEL HEXISTS HGET HGETALL HINCRBY HLEN HMGET HSET LLEN LMOVE LPUSH LINDEX LRANGE LTRIM PEXPIRE RPUSH PUBLISH
	SADD SCARD SISMEMBER SMISMEMBER SRANDMEMBER SREM TIME ZADD ZCARD ZRANGE ZRANGEBYSCORE ZREM ZSCORE`)

func TestScriptsCallOnlyWhatTheyMay(t *testing.T) {
	t.Parallel()
	called := regexp.MustCompile(`(?:redis\.p?call|try|count)\(\s*(?:'(\w+)'|(\w+))`)
	forbidden := regexp.MustCompile(`\b(cmsgpack|struct|bit)\.|LRANGE', \w+, 0, -1|ZRANGEBYSCORE', [^)]*'\+inf'\)|math\.random|os\.|loadstring`)
	for _, f := range luaFiles(t) {
		for _, match := range called.FindAllStringSubmatch(f.code, -1) {
			switch command := match[1]; {
			case command != "":
				require.Contains(t, allowed, command, f.name)
			case f.name == "counts" && match[2] == "command", f.name == "renew" && match[2] == "command":
				// a function that is given the command: its callers are looked at
			default:
				require.Equal(t, "command", match[2], "%s: a command must be written out: %s", f.name, match[0])
			}
		}
		require.Empty(t, forbidden.FindString(f.code), f.name)
		if f.name != "prelude" {
			require.NotContains(t, f.code, "redis.pcall(", "%s: use try", f.name)
		}
	}
}

// keyCounter sees with how many keys each script is called.
type keyCounter struct {
	mu    sync.Mutex
	names map[string]string // digest -> name
	keys  map[string]map[int]bool
	slots map[string]bool // key names, cut after the braces
}

func (k *keyCounter) DialHook(next redis.DialHook) redis.DialHook { return next }

func (k *keyCounter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (k *keyCounter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() == "evalsha" {
			k.see(cmd.Args())
		}
		return next(ctx, cmd)
	}
}

func (k *keyCounter) see(args []any) {
	k.mu.Lock()
	defer k.mu.Unlock()
	name, n := k.names[args[1].(string)], args[2].(int)
	if k.keys[name] == nil {
		k.keys[name] = map[int]bool{}
	}
	k.keys[name][n] = true
	for _, key := range args[3 : 3+n] {
		head, _, _ := strings.Cut(key.(string), "}")
		k.slots[head] = true
	}
}

func (k *keyCounter) reset() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.slots = map[string]bool{}
}

func (k *keyCounter) heads() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Collect(maps.Keys(k.slots))
}

// Every script is called with the keys that its header tells of, all in one Cluster slot.
func TestScriptsGetTheirKeys(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		counter := &keyCounter{names: digests(), keys: map[string]map[int]bool{}}
		e.rdb.AddHook(counter)
		for name, call := range calls {
			counter.reset()
			w := e.world()
			require.NoError(t, call(w.ctx(), w), name)
			require.Equal(t, []string{strings.TrimSuffix(w.keys.base, "}:")}, counter.heads(), name)
		}
		for _, f := range luaFiles(t) {
			if !slices.Contains(shared, f.name) {
				require.Equal(t, map[int]bool{f.documented("KEYS"): true}, counter.keys[f.name], f.name)
			}
		}
	})
}
