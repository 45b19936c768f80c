package main

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

type grepOptions struct {
	invert, count, quiet, only, names, numbered bool
	with, without                               bool
	most, before, after                         int
	pattern                                     *regexp.Regexp
}

// grep gives 0 when a line was found, 1 when none, 2 on an error, as POSIX has it.
func grep(c *call) int {
	set := c.flags()
	var o grepOptions
	fold := set.BoolP("ignore-case", "i", false, "a is A")
	set.BoolVarP(&o.invert, "invert-match", "v", false, "the other lines")
	set.BoolVarP(&o.numbered, "line-number", "n", false, "the line's number before it")
	set.BoolVarP(&o.count, "count", "c", false, "only how many")
	set.BoolVarP(&o.with, "files-with-matches", "l", false, "only the names of files with any")
	set.BoolVarP(&o.without, "files-without-match", "L", false, "only the names of the others")
	set.BoolVarP(&o.quiet, "quiet", "q", false, "only the exit code")
	set.BoolVarP(&o.only, "only-matching", "o", false, "only what fits")
	set.IntVarP(&o.most, "max-count", "m", -1, "at most so many of a file")
	set.IntVarP(&o.after, "after-context", "A", 0, "so many lines after it")
	set.IntVarP(&o.before, "before-context", "B", 0, "so many lines before it")
	around := set.IntP("context", "C", 0, "so many lines around it")
	extended := set.BoolP("extended-regexp", "E", false, "extended expressions")
	fixed := set.BoolP("fixed-strings", "F", false, "words as they are")
	word := set.BoolP("word-regexp", "w", false, "whole words")
	line := set.BoolP("line-regexp", "x", false, "whole lines")
	recursive := set.BoolP("recursive", "r", false, "folders")
	set.BoolVarP(recursive, "dereference-recursive", "R", false, "folders")
	named := set.BoolP("with-filename", "H", false, "the file's name before it")
	unnamed := set.BoolP("no-filename", "h", false, "no name before it")
	silent := set.BoolP("no-messages", "s", false, "no word about unreadable files")
	patterns := set.StringArrayP("regexp", "e", nil, "an expression")
	rest := c.parse(set)
	if *patterns == nil {
		c.need(rest, 1, -1)
		*patterns, rest = rest[:1], rest[1:]
	}
	if *around > 0 {
		o.before, o.after = *around, *around
	}
	var err error
	if o.pattern, err = expression(*patterns, *fixed, *extended, *fold, *word, *line); err != nil {
		c.say("%v", err)
		return usage
	}
	if *recursive {
		if len(rest) == 0 {
			rest = []string{"."}
		}
		rest = filesBelow(c, rest)
	}
	o.names = (len(rest) > 1 || *recursive || *named) && !*unnamed
	if *silent {
		c.err = io.Discard
	}
	found := false
	c.each(rest, func(name string, from io.Reader) {
		if o.search(c, name, from) {
			found = true
		}
	})
	switch {
	case found && (o.quiet || c.status == 0):
		return 0
	case c.status != 0:
		return usage
	}
	return 1
}

// expression makes one of Go's (RE2) of POSIX's; its syntax is that of the extended ones.
func expression(patterns []string, fixed, extended, fold, word, line bool) (*regexp.Regexp, error) {
	var parts []string
	for _, pattern := range patterns {
		for _, one := range strings.Split(pattern, "\n") {
			if fixed {
				one = regexp.QuoteMeta(one)
			} else if !extended {
				one = basicToExtended(one)
			}
			parts = append(parts, "(?:"+one+")")
		}
	}
	text := "(?:" + strings.Join(parts, "|") + ")"
	if word {
		text = `\b` + text + `\b`
	}
	if line {
		text = "^" + text + "$"
	}
	if fold {
		text = "(?i)" + text
	}
	return regexp.Compile(text)
}

// basicToExtended: in a basic expression ( ) { } | + ? are special with a backslash, in an
// extended one without (regex(7)).
func basicToExtended(text string) string {
	var made strings.Builder
	bracket := false
	for at := 0; at < len(text); at++ {
		one := text[at]
		switch {
		case bracket:
			bracket = one != ']' || text[at-1] == '[' || text[at-1] == '^' && text[at-2] == '['
			made.WriteByte(one)
		case one == '[':
			bracket = true
			made.WriteByte(one)
		case one == '\\' && at+1 < len(text):
			at++
			switch {
			case strings.IndexByte("(){}|+?", text[at]) >= 0:
				made.WriteByte(text[at])
			case text[at] == '<' || text[at] == '>':
				made.WriteString(`\b`)
			default:
				made.WriteByte('\\')
				made.WriteByte(text[at])
			}
		case strings.IndexByte("(){}|+?", one) >= 0 || one == '*' && made.Len() == 0:
			made.WriteByte('\\')
			made.WriteByte(one)
		default:
			made.WriteByte(one)
		}
	}
	return made.String()
}

func filesBelow(c *call, roots []string) []string {
	var found []string
	for _, root := range roots {
		filepath.WalkDir(c.path(root), func(path string, entry fs.DirEntry, err error) error {
			shown := root + strings.TrimPrefix(path, c.path(root))
			if err != nil {
				c.failed(shown, err)
			} else if entry.Type().IsRegular() {
				found = append(found, shown)
			}
			return nil
		})
	}
	if found == nil {
		found = []string{os.DevNull}
	}
	return found
}

// search writes what fits in one file, and tells whether anything did.
func (o *grepOptions) search(c *call, name string, from io.Reader) bool {
	matches, number, after, gap := 0, 0, 0, false
	var before []string
	prefix := func(mark string, line int) string {
		text := ""
		if o.names {
			text = name + mark
		}
		if o.numbered {
			text += fmt.Sprint(line) + mark
		}
		return text
	}
	silent := o.quiet || o.count || o.with || o.without
	lines(from, func(raw []byte) bool {
		number++
		line := strings.TrimSuffix(string(raw), "\n")
		if o.pattern.MatchString(line) == o.invert || o.most == matches {
			if after > 0 && !silent {
				fmt.Fprintln(c.out, prefix("-", number)+line)
				after--
			} else if o.most == matches {
				return false
			} else if o.before > 0 {
				if before = append(before, line); len(before) > o.before {
					before, gap = before[1:], true
				}
			} else {
				gap = true
			}
			return true
		}
		matches++
		if silent {
			return o.count && matches != o.most
		}
		if (o.before > 0 || o.after > 0) && gap && matches > 1 {
			fmt.Fprintln(c.out, "--")
		}
		for at, earlier := range before {
			fmt.Fprintln(c.out, prefix("-", number-len(before)+at)+earlier)
		}
		before, gap, after = nil, false, o.after
		if o.only && !o.invert {
			for _, part := range o.pattern.FindAllString(line, -1) {
				if part != "" {
					fmt.Fprintln(c.out, prefix(":", number)+part)
				}
			}
		} else {
			fmt.Fprintln(c.out, prefix(":", number)+line)
		}
		return matches != o.most || after > 0
	})
	switch {
	case o.quiet:
	case o.with && matches > 0, o.without && matches == 0:
		fmt.Fprintln(c.out, name)
	case o.count:
		label := ""
		if o.names {
			label = name + ":"
		}
		fmt.Fprintln(c.out, label+fmt.Sprint(matches))
	}
	return matches > 0
}
