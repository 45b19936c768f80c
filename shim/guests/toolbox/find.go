package main

import (
	"bufio"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"time"
)

// A test is one word of find's expression; it is asked about a file and may do something.
type (
	test func(*found) bool

	found struct {
		shown, real string
		info        fs.FileInfo
		depth       int
		prune       bool
	}

	finder struct {
		c           *call
		words       []string
		least, most int
		depthFirst  bool
		acts        bool
		to          *bufio.Writer
		follow      bool
	}
)

// find walks folders; its expression is read as POSIX has it: or binds less than and.
func find(c *call) int {
	o := &finder{c: c, words: c.args[1:], most: 1 << 30, to: bufio.NewWriter(c.out)}
	defer o.to.Flush()
	var roots []string
	for len(o.words) > 0 {
		word := o.words[0]
		if word == "-L" || word == "-P" || word == "-H" {
			o.follow = word == "-L"
		} else if strings.HasPrefix(word, "-") || word == "!" || word == "(" {
			break
		} else {
			roots = append(roots, word)
		}
		o.words = o.words[1:]
	}
	if len(roots) == 0 {
		roots = []string{"."}
	}
	wanted := func(*found) bool { return true }
	if len(o.words) > 0 {
		wanted = o.or()
		if len(o.words) > 0 {
			o.wrong("unexpected '%s'", o.words[0])
		}
	}
	if !o.acts {
		inner := wanted
		wanted = func(f *found) bool { return inner(f) && o.print(f, "\n") }
	}
	for _, root := range roots {
		o.walk(root, c.path(root), 0, wanted)
	}
	return c.status
}

func (o *finder) wrong(format string, values ...any) {
	o.c.say(format, values...)
	panic(badUsage(1))
}

func (o *finder) walk(shown, real string, depth int, wanted test) {
	stat := os.Lstat
	if o.follow {
		stat = os.Stat
	}
	info, err := stat(real)
	if err != nil {
		if info, err = os.Lstat(real); err != nil {
			o.c.failed(shown, err)
			return
		}
	}
	one := &found{shown: shown, real: real, info: info, depth: depth}
	if depth >= o.least && !o.depthFirst {
		wanted(one)
	}
	if info.IsDir() && depth < o.most && !one.prune {
		entries, err := os.ReadDir(real)
		if err != nil {
			o.c.failed(shown, err)
		}
		for _, entry := range entries {
			next := strings.TrimSuffix(shown, "/") + "/" + entry.Name()
			o.walk(next, real+"/"+entry.Name(), depth+1, wanted)
		}
	}
	if depth >= o.least && o.depthFirst {
		wanted(one)
	}
}

func (o *finder) print(f *found, end string) bool {
	o.to.WriteString(f.shown + end)
	return true
}

func (o *finder) next() string {
	if len(o.words) == 0 {
		o.wrong("the expression ends too early")
	}
	word := o.words[0]
	o.words = o.words[1:]
	return word
}

func (o *finder) at(words ...string) bool {
	for _, word := range words {
		if len(o.words) > 0 && o.words[0] == word {
			return true
		}
	}
	return false
}

func (o *finder) or() test {
	left := o.and()
	for o.at("-o", "-or") {
		o.next()
		first, second := left, o.and()
		left = func(f *found) bool { return first(f) || second(f) }
	}
	return left
}

func (o *finder) and() test {
	left := o.not()
	for len(o.words) > 0 && !o.at("-o", "-or", ")") {
		if o.at("-a", "-and") {
			o.next()
		}
		first, second := left, o.not()
		left = func(f *found) bool { return first(f) && second(f) }
	}
	return left
}

func (o *finder) not() test {
	if o.at("!", "-not") {
		o.next()
		inner := o.not()
		return func(f *found) bool { return !inner(f) }
	}
	if o.at("(") {
		o.next()
		inner := o.or()
		if o.next() != ")" {
			o.wrong("a ) is missing")
		}
		return inner
	}
	return o.primary(o.next())
}

func (o *finder) primary(word string) test {
	yes := func(*found) bool { return true }
	switch word {
	case "-name", "-iname", "-path", "-ipath", "-wholename":
		return o.matching(word, o.next())
	case "-type":
		kinds := o.next()
		return func(f *found) bool {
			kind := letter(f.info.Mode())
			if kind == '-' {
				kind = 'f'
			}
			return strings.IndexByte(kinds, kind) >= 0
		}
	case "-maxdepth":
		o.most = o.number(o.next())
		return yes
	case "-mindepth":
		o.least = o.number(o.next())
		return yes
	case "-depth":
		o.depthFirst = true
		return yes
	case "-xdev", "-mount", "-noleaf", "-true":
		return yes
	case "-size":
		return o.size(o.next())
	case "-mtime", "-mmin":
		unit := map[string]time.Duration{"-mtime": 24 * time.Hour, "-mmin": time.Minute}[word]
		compare := o.comparison(o.next())
		return func(f *found) bool { return compare(int64(time.Since(f.info.ModTime()) / unit)) }
	case "-newer":
		info, err := os.Stat(o.c.path(o.next()))
		if err != nil {
			o.wrong("%s", reason(err))
		}
		return func(f *found) bool { return f.info.ModTime().After(info.ModTime()) }
	case "-empty":
		return func(f *found) bool {
			if f.info.IsDir() {
				entries, err := os.ReadDir(f.real)
				return err == nil && len(entries) == 0
			}
			return f.info.Mode().IsRegular() && f.info.Size() == 0
		}
	}
	return o.action(word)
}

func (o *finder) action(word string) test {
	o.acts = o.acts || word != "-prune"
	switch word {
	case "-print":
		return func(f *found) bool { return o.print(f, "\n") }
	case "-print0":
		return func(f *found) bool { return o.print(f, "\x00") }
	case "-prune":
		return func(f *found) bool { f.prune = true; return true }
	case "-delete":
		o.depthFirst = true
		return func(f *found) bool {
			if f.shown == "." {
				return true
			}
			if err := os.Remove(f.real); err != nil {
				o.c.failed(f.shown, err)
				return false
			}
			return true
		}
	case "-exec":
		return o.exec()
	}
	o.wrong("unknown word '%s'", word)
	return nil
}

// exec runs a tool for each file; with + too, which only costs more calls.
func (o *finder) exec() test {
	var command []string
	for {
		word := o.next()
		if word == ";" || word == "+" && len(command) > 0 && command[len(command)-1] == "{}" {
			break
		}
		command = append(command, word)
	}
	if len(command) == 0 {
		o.wrong("-exec wants a command")
	}
	return func(f *found) bool {
		o.to.Flush()
		inner := *o.c
		inner.args, inner.status = nil, 0
		for _, word := range command {
			inner.args = append(inner.args, strings.ReplaceAll(word, "{}", f.shown))
		}
		return run(&inner) == 0
	}
}

func (o *finder) matching(word, pattern string) test {
	fold := strings.HasPrefix(word, "-i")
	if fold {
		pattern = strings.ToLower(pattern)
	}
	if _, err := path.Match(pattern, ""); err != nil {
		o.wrong("invalid pattern '%s'", pattern)
	}
	whole := strings.HasSuffix(word, "path") || word == "-wholename"
	return func(f *found) bool {
		name := path.Base(f.shown)
		if whole {
			// Here * stands for slashes too, which path.Match does not know: another sign for them.
			name = strings.ReplaceAll(f.shown, "/", "\x01")
		}
		if fold {
			name = strings.ToLower(name)
		}
		fits := pattern
		if whole {
			fits = strings.ReplaceAll(pattern, "/", "\x01")
		}
		ok, _ := path.Match(fits, name)
		return ok
	}
}

func (o *finder) number(text string) int {
	number, err := strconv.Atoi(text)
	if err != nil {
		o.wrong("invalid number '%s'", text)
	}
	return number
}

// comparison reads +N, N or -N.
func (o *finder) comparison(text string) func(int64) bool {
	number := int64(o.number(strings.TrimLeft(text, "+-")))
	switch text[0] {
	case '+':
		return func(value int64) bool { return value > number }
	case '-':
		return func(value int64) bool { return value < number }
	}
	return func(value int64) bool { return value == number }
}

func (o *finder) size(text string) test {
	units := map[byte]int64{'c': 1, 'w': 2, 'b': 512, 'k': 1 << 10, 'M': 1 << 20, 'G': 1 << 30}
	unit := int64(512)
	if text == "" {
		o.wrong("-size wants a number")
	}
	if known, ok := units[text[len(text)-1]]; ok {
		unit, text = known, text[:len(text)-1]
	}
	if text == "" {
		o.wrong("-size wants a number")
	}
	compare := o.comparison(text)
	return func(f *found) bool { return compare((f.info.Size() + unit - 1) / unit) }
}
