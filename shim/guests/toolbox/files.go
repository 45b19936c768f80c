package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func basename(c *call) int {
	words := c.parse(c.flags())
	c.need(words, 1, 2)
	name := path.Base(words[0])
	if len(words) == 2 && name != words[1] {
		name = strings.TrimSuffix(name, words[1])
	}
	fmt.Fprintln(c.out, name)
	return 0
}

func dirname(c *call) int {
	words := c.parse(c.flags())
	c.need(words, 1, -1)
	for _, word := range words {
		fmt.Fprintln(c.out, path.Dir(strings.TrimRight(word, "/")+strings.Repeat("/", rooted(word))))
	}
	return 0
}

// rooted is 1 for a word of slashes alone, which stands for the root.
func rooted(word string) int {
	if word != "" && strings.Trim(word, "/") == "" {
		return 1
	}
	return 0
}

func mkdir(c *call) int {
	set := c.flags()
	parents := set.BoolP("parents", "p", false, "with all above it; it may be there")
	verbose := set.BoolP("verbose", "v", false, "say what is made")
	set.StringP("mode", "m", "", "ignored: WASI has no modes")
	words := c.parse(set)
	c.need(words, 1, -1)
	for _, word := range words {
		make := os.Mkdir
		if *parents {
			make = os.MkdirAll
		}
		if err := make(c.path(word), 0o777); err != nil {
			c.failedAt(word, "can't create directory '"+word+"'", err)
		} else if *verbose {
			fmt.Fprintf(c.out, "created directory '%s'\n", word)
		}
	}
	return c.status
}

func rmdir(c *call) int {
	set := c.flags()
	parents := set.BoolP("parents", "p", false, "with those above it")
	words := c.parse(set)
	c.need(words, 1, -1)
	for _, word := range words {
		for {
			if err := syscall.Rmdir(c.path(word)); err != nil {
				c.failed(word, err)
				break
			}
			word = path.Dir(word)
			if !*parents || word == "." || word == "/" {
				break
			}
		}
	}
	return c.status
}

func rm(c *call) int {
	set := c.flags()
	force := set.BoolP("force", "f", false, "what is not there is no error")
	recursive := set.BoolP("recursive", "r", false, "folders with all in them")
	set.BoolVarP(recursive, "Recursive", "R", false, "as -r")
	empty := set.BoolP("dir", "d", false, "empty folders")
	verbose := set.BoolP("verbose", "v", false, "say what is removed")
	words := c.parse(set)
	if !*force {
		c.need(words, 1, -1)
	}
	for _, word := range words {
		if base := path.Base(word); base == "/" || base == "." || base == ".." {
			c.say("'%s' is not removed", word)
			continue
		}
		info, err := os.Lstat(c.path(word))
		switch {
		case err != nil:
		case info.IsDir() && !*recursive && !*empty:
			err = syscall.EISDIR
		case *recursive:
			err = os.RemoveAll(c.path(word))
		default:
			err = os.Remove(c.path(word))
		}
		if err != nil && !(*force && errors.Is(err, fs.ErrNotExist)) {
			c.failedAt(word, "can't remove '"+word+"'", err)
		} else if err == nil && *verbose {
			fmt.Fprintf(c.out, "removed '%s'\n", word)
		}
	}
	return c.status
}

func touch(c *call) int {
	set := c.flags()
	noCreate := set.BoolP("no-create", "c", false, "make no file")
	access := set.BoolP("access", "a", false, "the access time alone")
	modify := set.BoolP("modify", "m", false, "the modification time alone")
	given := set.StringP("date", "d", "", "this time: @seconds or RFC 3339")
	reference := set.StringP("reference", "r", "", "the time of this file")
	words := c.parse(set)
	c.need(words, 1, -1)
	when := time.Now()
	var err error
	if *reference != "" {
		var info fs.FileInfo
		if info, err = os.Stat(c.path(*reference)); err == nil {
			when = info.ModTime()
		}
	} else if seconds := int64(0); *given != "" {
		if _, scan := fmt.Sscanf(*given, "@%d", &seconds); scan == nil {
			when = time.Unix(seconds, 0)
		} else {
			when, err = time.Parse(time.RFC3339, *given)
		}
	}
	if err != nil {
		c.say("%v", err)
		return c.status
	}
	for _, word := range words {
		_, missing := os.Stat(c.path(word))
		if errors.Is(missing, fs.ErrNotExist) {
			if *noCreate {
				continue
			}
			file, err := os.OpenFile(c.path(word), os.O_WRONLY|os.O_CREATE, 0o666)
			if err != nil {
				c.failed(word, err)
				continue
			}
			file.Close()
		}
		a, m := when, when
		if *access && !*modify {
			m = time.Time{} // a zero time is left as it is
		} else if *modify && !*access {
			a = time.Time{}
		}
		if err := os.Chtimes(c.path(word), a, m); err != nil {
			c.failed(word, err)
		}
	}
	return c.status
}

func ln(c *call) int {
	set := c.flags()
	symbolic := set.BoolP("symbolic", "s", false, "a symbolic one")
	force := set.BoolP("force", "f", false, "in place of what is there")
	plain := set.BoolP("no-dereference", "n", false, "a link to a folder is not the folder")
	words := c.parse(set)
	c.need(words, 1, -1)
	if len(words) == 1 {
		words = append(words, path.Base(words[0]))
	}
	sources, last := words[:len(words)-1], words[len(words)-1]
	for _, source := range sources {
		target := into(c, last, source, *plain)
		if *force {
			os.Remove(c.path(target))
		}
		var err error
		if *symbolic {
			err = os.Symlink(source, c.path(target))
		} else {
			err = os.Link(c.path(source), c.path(target))
		}
		if err != nil {
			c.failed(target, err)
		}
	}
	return c.status
}

// into gives where a source goes: below the target, if that is a folder.
func into(c *call, target, source string, plain bool) string {
	stat := os.Stat
	if plain {
		stat = os.Lstat
	}
	if info, err := stat(c.path(target)); err == nil && info.IsDir() {
		return strings.TrimRight(target, "/") + "/" + path.Base(source)
	}
	return target
}

func readlink(c *call) int {
	set := c.flags()
	follow := set.BoolP("canonicalize", "f", false, "the real path, no link on the way")
	bare := set.BoolP("no-newline", "n", false, "no end of line")
	words := c.parse(set)
	c.need(words, 1, -1)
	for _, word := range words {
		target, err := os.Readlink(c.path(word))
		if *follow {
			target, err = filepath.EvalSymlinks(c.path(word))
		}
		if err != nil {
			c.status = 1 // readlink(1) says nothing
			continue
		}
		fmt.Fprint(c.out, target)
		if !*bare {
			fmt.Fprintln(c.out)
		}
	}
	return c.status
}
