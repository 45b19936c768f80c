package main

import (
	"bufio"
	"fmt"
	"io/fs"
	"os"
	"sort"
	"strconv"
	"strings"
	"time"
)

type listing struct {
	c                                                      *call
	all, almost, long, one, recurse, plain, human, reverse bool
	byTime, bySize, classify, inode, slash                 bool
	to                                                     *bufio.Writer
}

type listed struct {
	name string
	path string
	info fs.FileInfo
}

// ls lists folders. WASI tells neither modes nor owners: -l shows ? for them, not a guess.
func ls(c *call) int {
	set := c.flags()
	o := listing{c: c, to: bufio.NewWriter(c.out)}
	set.BoolVarP(&o.all, "all", "a", false, "also names that begin with a dot")
	set.BoolVarP(&o.almost, "almost-all", "A", false, "as -a without . and ..")
	set.BoolVarP(&o.long, "long", "l", false, "size, time and what links lead to")
	set.BoolVarP(&o.long, "numeric-uid-gid", "n", false, "as -l")
	set.BoolVarP(&o.one, "single", "1", false, "one in a line")
	set.BoolVarP(&o.recurse, "recursive", "R", false, "folders in folders")
	set.BoolVarP(&o.plain, "directory", "d", false, "folders themselves, not what is in them")
	human := set.Bool("human-readable", false, "sizes in k, M, G (-h)")
	set.BoolVarP(&o.human, "human", "h", false, "sizes in k, M, G")
	set.BoolVarP(&o.reverse, "reverse", "r", false, "the other way round")
	set.BoolVarP(&o.byTime, "time", "t", false, "the newest first")
	set.BoolVarP(&o.bySize, "size", "S", false, "the largest first")
	set.BoolVarP(&o.classify, "classify", "F", false, "a mark for what it is")
	set.BoolVarP(&o.slash, "slash", "p", false, "a slash after folders")
	set.BoolVarP(&o.inode, "inode", "i", false, "the inode's number")
	columns := set.BoolP("columns", "C", false, "several in a line")
	colour := set.String("color", "never", "ignored")
	set.Lookup("color").NoOptDefVal = *colour
	words := c.parse(set)
	defer o.to.Flush()
	o.human = o.human || *human
	o.one = o.one || o.long || !(host.terminal && c.out.(*output).to == os.Stdout || *columns)
	if len(words) == 0 {
		words = []string{"."}
	}
	var files, folders []listed
	for _, word := range words {
		stat := os.Stat
		if o.long || o.plain {
			stat = os.Lstat
		}
		info, err := stat(c.path(word))
		if err != nil {
			if info, err = os.Lstat(c.path(word)); err != nil {
				c.failed(word, err)
				continue
			}
		}
		if info.IsDir() && !o.plain {
			folders = append(folders, listed{word, c.path(word), info})
		} else {
			files = append(files, listed{word, c.path(word), info})
		}
	}
	o.sort(files)
	o.show(files)
	o.sort(folders)
	for at, folder := range folders {
		if at > 0 || len(files) > 0 {
			fmt.Fprintln(o.to)
		}
		o.folder(folder, len(words) > 1 || o.recurse)
	}
	return c.status
}

func (o *listing) folder(folder listed, titled bool) {
	if titled {
		fmt.Fprintln(o.to, folder.name+":")
	}
	entries, err := os.ReadDir(folder.path)
	if err != nil {
		o.c.failed(folder.name, err)
	}
	var found, inner []listed
	if o.all && !o.almost {
		for _, name := range []string{".", ".."} {
			if info, err := os.Stat(folder.path + "/" + name); err == nil {
				found = append(found, listed{name, folder.path + "/" + name, info})
			}
		}
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), ".") && !o.all && !o.almost {
			continue
		}
		info, err := entry.Info()
		if err != nil {
			continue // it has gone meanwhile
		}
		one := listed{entry.Name(), folder.path + "/" + entry.Name(), info}
		found = append(found, one)
		if info.IsDir() {
			one.name = strings.TrimRight(folder.name, "/") + "/" + entry.Name()
			inner = append(inner, one)
		}
	}
	o.sort(found)
	o.show(found)
	if o.recurse {
		o.sort(inner)
		for _, one := range inner {
			fmt.Fprintln(o.to)
			o.folder(one, true)
		}
	}
}

func (o *listing) sort(all []listed) {
	sort.SliceStable(all, func(a, b int) bool {
		x, y := all[a], all[b]
		if o.reverse {
			x, y = y, x
		}
		if o.byTime && !x.info.ModTime().Equal(y.info.ModTime()) {
			return x.info.ModTime().After(y.info.ModTime())
		}
		if o.bySize && x.info.Size() != y.info.Size() {
			return x.info.Size() > y.info.Size()
		}
		return x.name < y.name
	})
}

func (o *listing) show(all []listed) {
	labels := make([]string, len(all))
	for at, one := range all {
		labels[at] = o.label(one)
	}
	if o.one {
		for _, label := range labels {
			fmt.Fprintln(o.to, label)
		}
		return
	}
	width, _ := strconv.Atoi(o.c.getenv("COLUMNS"))
	if width <= 0 {
		width = 80
	}
	inColumns(o.to, labels, width)
}

func inColumns(to *bufio.Writer, labels []string, width int) {
	widest := 0
	for _, label := range labels {
		if n := len([]rune(label)); n > widest {
			widest = n
		}
	}
	widest += 2
	columns := width / widest
	if columns < 1 {
		columns = 1
	}
	rows := (len(labels) + columns - 1) / columns
	for row := 0; row < rows; row++ {
		for at := row; at < len(labels); at += rows {
			if at+rows >= len(labels) {
				fmt.Fprint(to, labels[at])
			} else {
				fmt.Fprintf(to, "%-*s", widest, labels[at])
			}
		}
		fmt.Fprintln(to)
	}
}

func (o *listing) label(one listed) string {
	mode, text := one.info.Mode(), ""
	if o.inode {
		text = fmt.Sprintf("%8d ", inode(one.info))
	}
	if o.long {
		size := fmt.Sprint(one.info.Size())
		if o.human {
			size = readable(one.info.Size())
		}
		text += fmt.Sprintf("%c????????? %3d ? ? %9s %s ", letter(mode), linkCount(one.info), size,
			shownTime(one.info.ModTime()))
	}
	text += one.name
	if mode&fs.ModeSymlink != 0 && o.long {
		if target, err := os.Readlink(one.path); err == nil {
			text += " -> " + target
		}
	} else if mode.IsDir() && (o.classify || o.slash) {
		text += "/"
	} else if mode&fs.ModeSymlink != 0 && o.classify {
		text += "@"
	}
	return text
}

func letter(mode fs.FileMode) byte {
	switch {
	case mode.IsDir():
		return 'd'
	case mode&fs.ModeSymlink != 0:
		return 'l'
	case mode&fs.ModeCharDevice != 0:
		return 'c'
	case mode&fs.ModeDevice != 0:
		return 'b'
	case mode&fs.ModeSocket != 0:
		return 's'
	case mode&fs.ModeNamedPipe != 0:
		return 'p'
	}
	return '-'
}

func shownTime(at time.Time) string {
	if age := time.Since(at); age > 180*24*time.Hour || age < -time.Hour {
		return at.Format("Jan _2  2006")
	}
	return at.Format("Jan _2 15:04")
}

func readable(size int64) string {
	value, units := float64(size), "kMGTP"
	if size < 1024 {
		return fmt.Sprint(size)
	}
	for at := 0; ; at++ {
		value /= 1024
		if value < 1000 || at == len(units)-1 {
			if value < 10 {
				return fmt.Sprintf("%.1f%c", value, units[at])
			}
			return fmt.Sprintf("%.0f%c", value, units[at])
		}
	}
}
