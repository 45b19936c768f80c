package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

func cat(c *call) int {
	set := c.flags()
	number := set.BoolP("number", "n", false, "number the lines")
	set.BoolP("unbuffered", "u", false, "ignored: nothing is held back")
	count := 0
	c.each(c.parse(set), func(name string, from io.Reader) {
		if !*number {
			if _, err := io.Copy(c.out, from); err != nil {
				c.failed(name, err)
			}
			return
		}
		lines(from, func(line []byte) bool {
			count++
			fmt.Fprintf(c.out, "%6d\t%s", count, line)
			return true
		})
	})
	return c.status
}

// lines gives each line with its end, the last one as it is, until told to stop.
func lines(from io.Reader, each func(line []byte) bool) {
	reader := bufio.NewReader(from)
	for {
		line, err := reader.ReadBytes('\n')
		if len(line) > 0 && !each(line) || err != nil {
			return
		}
	}
}

// shortCount turns the old `-5` into `-n 5`.
func shortCount(args []string) []string {
	var made []string
	for _, word := range args {
		if len(word) > 1 && word[0] == '-' && strings.Trim(word[1:], "0123456789") == "" {
			made = append(made, "-n", word[1:])
		} else {
			made = append(made, word)
		}
	}
	return append([]string{}, made...)
}

// amount reads a count with a suffix: k, M, G.
func amount(c *call, text string) int64 {
	factor := int64(1)
	if at := strings.IndexAny(text, "kKMG"); at >= 0 && at == len(text)-1 {
		factor = map[byte]int64{'k': 1 << 10, 'K': 1 << 10, 'M': 1 << 20, 'G': 1 << 30}[text[at]]
		text = text[:at]
	}
	number, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		c.say("invalid number '%s'", text)
		panic(badUsage(1))
	}
	return number * factor
}

func head(c *call) int {
	set := c.flags()
	count := set.StringP("lines", "n", "10", "so many lines; -N: all but the last N")
	size := set.StringP("bytes", "c", "", "so many bytes")
	quiet := set.BoolP("quiet", "q", false, "no names")
	files := c.parse(set, shortCount(c.args[1:])...)
	c.each(files, func(name string, from io.Reader) {
		title(c, name, len(files) > 1 && !*quiet)
		if *size != "" {
			io.CopyN(c.out, from, amount(c, *size))
			return
		}
		left := amount(c, *count)
		if left < 0 {
			allButLast(c, from, int(-left))
			return
		}
		// Byte by byte no more than is wanted: the rest of a shell's stdin is the next command's.
		if left > 0 {
			lines(&lineReader{from: from}, func(line []byte) bool {
				c.out.Write(line)
				left--
				return left > 0
			})
		}
	})
	return c.status
}

func allButLast(c *call, from io.Reader, count int) {
	var kept [][]byte
	lines(from, func(line []byte) bool {
		if kept = append(kept, line); len(kept) > count {
			c.out.Write(kept[0])
			kept = kept[1:]
		}
		return true
	})
}

func title(c *call, name string, wanted bool) {
	if wanted {
		if name == "-" {
			name = "standard input"
		}
		fmt.Fprintf(c.out, "==> %s <==\n", name)
	}
}

func tail(c *call) int {
	set := c.flags()
	count := set.StringP("lines", "n", "10", "so many lines; +N: from line N on")
	size := set.StringP("bytes", "c", "", "so many bytes; +N: from byte N on")
	follow := set.BoolP("follow", "f", false, "go on with what is added")
	set.BoolP("retry", "F", false, "as -f")
	quiet := set.BoolP("quiet", "q", false, "no names")
	files := c.parse(set, shortCount(c.args[1:])...)
	goOn := *follow || set.Changed("retry")
	c.each(files, func(name string, from io.Reader) {
		title(c, name, len(files) > 1 && !*quiet)
		switch {
		case strings.HasPrefix(*size, "+"):
			io.CopyN(io.Discard, from, amount(c, (*size)[1:])-1)
			io.Copy(c.out, from)
		case *size != "":
			lastBytes(c, from, amount(c, strings.TrimPrefix(*size, "-")))
		case strings.HasPrefix(*count, "+"):
			skip := amount(c, (*count)[1:]) - 1
			lines(from, func(line []byte) bool {
				if skip--; skip < 0 {
					c.out.Write(line)
				}
				return true
			})
		default:
			lastLines(c, from, int(amount(c, strings.TrimPrefix(*count, "-"))))
		}
		if file, ok := from.(*os.File); ok && goOn && name == files[len(files)-1] {
			watch(c, file)
		}
	})
	return c.status
}

func lastLines(c *call, from io.Reader, count int) {
	var kept [][]byte
	lines(from, func(line []byte) bool {
		if kept = append(kept, line); len(kept) > count {
			kept = kept[1:]
		}
		return true
	})
	for _, line := range kept {
		c.out.Write(line)
	}
}

func lastBytes(c *call, from io.Reader, count int64) {
	var kept []byte
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		kept = append(kept, buffer[:n]...)
		if extra := int64(len(kept)) - count; extra > 1<<20 || extra > 0 && err != nil {
			kept = append([]byte{}, kept[extra:]...)
		}
		if err != nil {
			c.out.Write(kept)
			return
		}
	}
}

// watch shows what is added to a file, and begins again when it is cut off; nothing of WASI tells
// of a change.
func watch(c *call, file *os.File) {
	for c.ctx.Err() == nil {
		n, _ := io.Copy(c.out, file)
		if n > 0 {
			continue
		}
		at, _ := file.Seek(0, io.SeekCurrent)
		if info, err := file.Stat(); err == nil && info.Size() < at {
			file.Seek(0, io.SeekStart)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

func wc(c *call) int {
	set := c.flags()
	byLine := set.BoolP("lines", "l", false, "lines")
	byWord := set.BoolP("words", "w", false, "words")
	byRune := set.BoolP("chars", "m", false, "characters")
	byByte := set.BoolP("bytes", "c", false, "bytes")
	files := c.parse(set)
	if !*byLine && !*byWord && !*byRune && !*byByte {
		*byLine, *byWord, *byByte = true, true, true
	}
	var total [4]int
	show := func(counts [4]int, name string) {
		var words []string
		for at, on := range []bool{*byLine, *byWord, *byRune, *byByte} {
			if on {
				words = append(words, fmt.Sprintf("%7d", counts[at]))
			}
		}
		text := strings.Join(words, " ")
		if len(words) == 1 {
			text = strings.TrimSpace(text)
		}
		if name != "-" || len(files) > 0 {
			text += " " + name
		}
		fmt.Fprintln(c.out, text)
	}
	c.each(files, func(name string, from io.Reader) {
		counts := count(from)
		for at := range total {
			total[at] += counts[at]
		}
		show(counts, name)
	})
	if len(files) > 1 {
		show(total, "total")
	}
	return c.status
}

// count gives lines, words, characters and bytes.
func count(from io.Reader) (counts [4]int) {
	buffer, inWord := make([]byte, 64<<10), false
	for {
		n, err := from.Read(buffer)
		for _, one := range buffer[:n] {
			space := one == ' ' || one >= '\t' && one <= '\r'
			if one == '\n' {
				counts[0]++
			}
			if !space && !inWord {
				counts[1]++
			}
			inWord = !space
			if utf8.RuneStart(one) {
				counts[2]++
			}
		}
		counts[3] += n
		if err != nil {
			return counts
		}
	}
}

func tee(c *call) int {
	set := c.flags()
	add := set.BoolP("append", "a", false, "add to the files")
	set.BoolP("ignore-interrupts", "i", false, "ignored")
	to := []io.Writer{c.out}
	for _, name := range c.parse(set) {
		flags := os.O_WRONLY | os.O_CREATE | os.O_TRUNC
		if *add {
			flags = os.O_WRONLY | os.O_CREATE | os.O_APPEND
		}
		file, err := os.OpenFile(c.path(name), flags, 0o666)
		if err != nil {
			c.failed(name, err)
			continue
		}
		defer file.Close()
		to = append(to, file)
	}
	if _, err := io.Copy(io.MultiWriter(to...), c.in); err != nil {
		c.failed("write", err)
	}
	return c.status
}
