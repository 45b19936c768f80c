package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
)

type copier struct {
	c                                            *call
	follow, recursive, times, noClobber, verbose bool
	force                                        bool
}

func cp(c *call) int {
	set := c.flags()
	o := copier{c: c}
	set.BoolVarP(&o.recursive, "recursive", "r", false, "folders with all in them")
	set.BoolVarP(&o.recursive, "Recursive", "R", false, "as -r")
	archive := set.BoolP("archive", "a", false, "as -rPp")
	set.BoolVarP(&o.times, "preserve", "p", false, "keep the times")
	follow := set.BoolP("dereference", "L", false, "what links lead to, not links")
	keep := set.BoolP("no-dereference", "P", false, "links as they are")
	set.BoolVarP(&o.force, "force", "f", false, "remove what can't be written to")
	set.BoolVarP(&o.noClobber, "no-clobber", "n", false, "not over what is there")
	set.BoolVarP(&o.verbose, "verbose", "v", false, "say what is copied")
	target := set.StringP("target-directory", "t", "", "into this folder")
	words := c.parse(set)
	o.recursive = o.recursive || *archive
	o.times = o.times || *archive
	o.follow = *follow || !o.recursive && !*keep
	if *target != "" {
		words = append(words, *target)
	}
	o.each(words, o.copy)
	return c.status
}

// each does something with every source and the place that it goes to.
func (o *copier) each(words []string, do func(from, to string) error) {
	c := o.c
	c.need(words, 2, -1)
	sources, last := words[:len(words)-1], words[len(words)-1]
	if info, err := os.Stat(c.path(last)); len(sources) > 1 && (err != nil || !info.IsDir()) {
		c.say("'%s' is not a directory", last)
		return
	}
	for _, source := range sources {
		to := into(c, last, source, false)
		if err := do(c.path(source), c.path(to)); err != nil {
			name := source
			var at *fs.PathError
			if errors.As(err, &at) && at.Path == c.path(to) {
				name = to
			}
			c.failed(name, err)
		} else if o.verbose {
			fmt.Fprintf(c.out, "'%s' -> '%s'\n", source, to)
		}
	}
}

var errOmitted = errors.New("it is a directory (-r copies those)")
var errInside = errors.New("can't be copied into itself")
var errSame = errors.New("source and target are the same file")

func (o *copier) copy(from, to string) error {
	stat := os.Lstat
	if o.follow {
		stat = os.Stat
	}
	info, err := stat(from)
	if err != nil {
		return err
	}
	there, err := os.Stat(to)
	if err == nil && os.SameFile(info, there) {
		return errSame
	}
	if err == nil && o.noClobber && !info.IsDir() {
		return nil
	}
	switch {
	case info.IsDir():
		err = o.folder(from, to)
	case info.Mode()&fs.ModeSymlink != 0:
		var target string
		if target, err = os.Readlink(from); err == nil {
			os.Remove(to)
			err = os.Symlink(target, to)
		}
		return err
	default:
		err = o.file(from, to)
	}
	if err == nil && o.times {
		err = os.Chtimes(to, info.ModTime(), info.ModTime())
	}
	return err
}

func (o *copier) folder(from, to string) error {
	if !o.recursive {
		return errOmitted
	}
	if strings.HasPrefix(path.Clean(to)+"/", path.Clean(from)+"/") {
		return errInside
	}
	if err := os.Mkdir(to, 0o777); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if err := o.copy(from+"/"+entry.Name(), to+"/"+entry.Name()); err != nil {
			o.c.failed(from+"/"+entry.Name(), err)
		}
	}
	return nil
}

func (o *copier) file(from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	flags := os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	target, err := os.OpenFile(to, flags, 0o666)
	if err != nil && o.force {
		os.Remove(to)
		target, err = os.OpenFile(to, flags, 0o666)
	}
	if err != nil {
		return err
	}
	if _, err = io.Copy(target, source); err != nil {
		target.Close()
		return err
	}
	return target.Close()
}

func mv(c *call) int {
	set := c.flags()
	o := copier{c: c, recursive: true, times: true}
	set.BoolVarP(&o.force, "force", "f", false, "ignored: nothing is asked")
	set.BoolVarP(&o.noClobber, "no-clobber", "n", false, "not over what is there")
	set.BoolVarP(&o.verbose, "verbose", "v", false, "say what is moved")
	target := set.StringP("target-directory", "t", "", "into this folder")
	words := c.parse(set)
	if *target != "" {
		words = append(words, *target)
	}
	o.each(words, func(from, to string) error {
		if _, err := os.Lstat(to); err == nil && o.noClobber {
			return nil
		}
		err := os.Rename(from, to)
		if !errors.Is(err, syscall.EXDEV) {
			return err
		}
		// Another mount: copied whole, and only then removed.
		before := c.status
		c.status = 0
		if err := o.copy(from, to); err != nil {
			return err
		}
		if c.status != 0 {
			return errors.New("not removed: not all of it could be copied")
		}
		c.status = before
		return os.RemoveAll(from)
	})
	return c.status
}
