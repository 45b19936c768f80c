package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"sort"
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

func sortTool(c *call) int {
	set := c.flags()
	numeric := set.BoolP("numeric-sort", "n", false, "by number")
	reverse := set.BoolP("reverse", "r", false, "the other way round")
	unique := set.BoolP("unique", "u", false, "each once")
	fold := set.BoolP("ignore-case", "f", false, "a is A")
	blanks := set.BoolP("ignore-leading-blanks", "b", false, "not the blanks before")
	key := set.StringP("key", "k", "", "by these fields: FROM[,TO][n][r]")
	separator := set.StringP("field-separator", "t", "", "what is between fields")
	output := set.StringP("output", "o", "", "write to this file")
	check := set.BoolP("check", "c", false, "only tell whether it is sorted")
	var all []string
	c.each(c.parse(set), func(_ string, from io.Reader) {
		lines(from, func(line []byte) bool {
			all = append(all, strings.TrimSuffix(string(line), "\n"))
			return true
		})
	})
	if strings.Contains(*key, "n") {
		*numeric = true
	}
	if strings.Contains(*key, "r") {
		*reverse = true
	}
	from, to := keyFields(c, *key)
	compare := func(a, b string) int {
		a, b = field(a, *separator, from, to), field(b, *separator, from, to)
		if *blanks || *numeric {
			a, b = strings.TrimLeft(a, " \t"), strings.TrimLeft(b, " \t")
		}
		if *fold {
			a, b = strings.ToUpper(a), strings.ToUpper(b)
		}
		order := strings.Compare(a, b)
		if *numeric {
			order = 0
			if x, y := leadingNumber(a), leadingNumber(b); x < y {
				order = -1
			} else if x > y {
				order = 1
			}
		}
		if *reverse {
			order = -order
		}
		return order
	}
	whole := func(a, b string) int {
		if order := compare(a, b); order != 0 || *unique {
			return order
		}
		if order := strings.Compare(a, b); !*reverse {
			return order
		} else {
			return -order
		}
	}
	if *check {
		for at := 1; at < len(all); at++ {
			if order := whole(all[at-1], all[at]); order > 0 || order == 0 && *unique {
				c.say("disorder: %s", all[at])
				break
			}
		}
		return c.status
	}
	sort.SliceStable(all, func(a, b int) bool { return whole(all[a], all[b]) < 0 })
	var made bytes.Buffer
	for at, line := range all {
		if !*unique || at == 0 || compare(all[at-1], line) != 0 {
			made.WriteString(line)
			made.WriteByte('\n')
		}
	}
	if *output != "" {
		if err := os.WriteFile(c.path(*output), made.Bytes(), 0o666); err != nil {
			c.failed(*output, err)
		}
		return c.status
	}
	c.out.Write(made.Bytes())
	return c.status
}

func keyFields(c *call, key string) (from, to int) {
	if key == "" {
		return 0, 0
	}
	first, last, _ := strings.Cut(key, ",")
	number := func(text string) int {
		text, _, _ = strings.Cut(strings.TrimRight(text, "nrbdfi"), ".")
		if text == "" {
			return 0
		}
		found, err := strconv.Atoi(text)
		if err != nil || found < 1 {
			c.say("invalid key '%s'", key)
			panic(badUsage(usage))
		}
		return found
	}
	return number(first), number(last)
}

// field gives the fields from..to of a line, counted from 1; 0: no bound.
func field(line, separator string, from, to int) string {
	if from == 0 {
		return line
	}
	var fields []string
	if separator != "" {
		fields = strings.Split(line, separator)
	} else {
		fields = strings.Fields(line)
		separator = " "
	}
	if to == 0 || to > len(fields) {
		to = len(fields)
	}
	if from > to {
		return ""
	}
	return strings.Join(fields[from-1:to], separator)
}

func leadingNumber(text string) float64 {
	end := 0
	for end < len(text) && (text[end] >= '0' && text[end] <= '9' || text[end] == '.' ||
		end == 0 && text[end] == '-') {
		end++
	}
	number, _ := strconv.ParseFloat(text[:end], 64)
	return number
}

func uniq(c *call) int {
	set := c.flags()
	counted := set.BoolP("count", "c", false, "how often before each")
	repeated := set.BoolP("repeated", "d", false, "only what comes again")
	single := set.BoolP("unique", "u", false, "only what comes once")
	files := c.parse(set)
	c.need(files, 0, 1)
	last, times := "", 0
	flush := func() {
		if times == 0 || *repeated && times == 1 || *single && times > 1 {
			return
		}
		if *counted {
			fmt.Fprintf(c.out, "%7d ", times)
		}
		fmt.Fprintln(c.out, last)
	}
	c.each(files, func(_ string, from io.Reader) {
		lines(from, func(raw []byte) bool {
			line := strings.TrimSuffix(string(raw), "\n")
			if line != last || times == 0 {
				flush()
				last, times = line, 0
			}
			times++
			return true
		})
	})
	flush()
	return c.status
}

func cut(c *call) int {
	set := c.flags()
	fields := set.StringP("fields", "f", "", "these fields")
	characters := set.StringP("characters", "c", "", "these characters")
	octets := set.StringP("bytes", "b", "", "these bytes")
	separator := set.StringP("delimiter", "d", "\t", "what is between fields")
	only := set.BoolP("only-delimited", "s", false, "not the lines without it")
	files := c.parse(set)
	list := *fields + *characters + *octets
	wanted := ranges(c, list)
	c.each(files, func(_ string, from io.Reader) {
		lines(from, func(raw []byte) bool {
			line := strings.TrimSuffix(string(raw), "\n")
			var parts []string
			between := ""
			switch {
			case *fields != "":
				if !strings.Contains(line, *separator) {
					if !*only {
						fmt.Fprintln(c.out, line)
					}
					return true
				}
				parts, between = strings.Split(line, *separator), *separator
			case *octets != "":
				for at := range []byte(line) {
					parts = append(parts, line[at:at+1])
				}
			default:
				parts = strings.Split(line, "")
			}
			var kept []string
			for at, part := range parts {
				if wanted(at + 1) {
					kept = append(kept, part)
				}
			}
			fmt.Fprintln(c.out, strings.Join(kept, between))
			return true
		})
	})
	return c.status
}

// ranges reads a list such as 1,3-5,7-.
func ranges(c *call, list string) func(int) bool {
	var bounds [][2]int
	for _, one := range strings.Split(list, ",") {
		first, last, through := strings.Cut(one, "-")
		low, err1 := strconv.Atoi(first)
		high, err2 := strconv.Atoi(last)
		switch {
		case !through:
			high = low
		case last == "":
			high, err2 = 1<<30, nil
		}
		if first == "" && through {
			low, err1 = 1, nil
		}
		if err1 != nil || through && err2 != nil || low < 1 {
			c.say("invalid list '%s'", list)
			panic(badUsage(usage))
		}
		bounds = append(bounds, [2]int{low, high})
	}
	return func(at int) bool {
		for _, one := range bounds {
			if one[0] <= at && at <= one[1] {
				return true
			}
		}
		return false
	}
}

func tr(c *call) int {
	set := c.flags()
	set.SetInterspersed(false)
	remove := set.BoolP("delete", "d", false, "leave these characters out")
	squeeze := set.BoolP("squeeze-repeats", "s", false, "one of several that follow each other")
	complement := set.BoolP("complement", "c", false, "all but these")
	words := c.parse(set)
	c.need(words, 1, 2)
	first := members(words[0])
	var second []rune
	if len(words) == 2 {
		second = members(words[1])
	} else if !*remove && !*squeeze {
		c.say("missing operand")
		return usage
	}
	places := map[rune]int{}
	for at := len(first) - 1; at >= 0; at-- {
		places[first[at]] = at
	}
	reader, writer := bufio.NewReader(c.in), bufio.NewWriter(c.out)
	defer writer.Flush()
	last := rune(-1)
	for {
		one, _, err := reader.ReadRune()
		if err != nil {
			return c.status
		}
		at, in := places[one]
		if *complement {
			at, in = len(second)-1, !in
		}
		if in && *remove {
			continue
		}
		if in && len(second) > 0 && !*remove {
			if at >= len(second) {
				at = len(second) - 1
			}
			one = second[at]
		}
		if *squeeze && in && one == last {
			continue
		}
		last = one
		writer.WriteRune(one)
	}
}

// members gives the characters of a set as tr writes it: ranges, classes, escapes.
func members(text string) []rune {
	classes := map[string]string{
		"[:lower:]": "a-z", "[:upper:]": "A-Z", "[:digit:]": "0-9", "[:alpha:]": "A-Za-z",
		"[:alnum:]": "0-9A-Za-z", "[:space:]": `\t\n\v\f\r `, "[:blank:]": `\t `,
		"[:punct:]": "!-/:-@[-`{-~", "[:xdigit:]": "0-9A-Fa-f",
	}
	for name, meaning := range classes {
		text = strings.ReplaceAll(text, name, meaning)
	}
	escapes := map[rune]rune{'n': '\n', 't': '\t', 'r': '\r', 'v': '\v', 'f': '\f', '0': 0}
	var found []rune
	runes := []rune(text)
	for at := 0; at < len(runes); at++ {
		one := runes[at]
		if one == '\\' && at+1 < len(runes) {
			at++
			one = runes[at]
			if meant, ok := escapes[one]; ok {
				one = meant
			}
		} else if one == '-' && len(found) > 0 && at+1 < len(runes) {
			at++
			for next := found[len(found)-1] + 1; next <= runes[at]; next++ {
				found = append(found, next)
			}
			continue
		}
		found = append(found, one)
	}
	return found
}

func seq(c *call) int {
	words := c.args[1:] // numbers may be negative, so there are no options
	c.need(words, 1, 3)
	numbers := []float64{1, 1, 1}
	for at, word := range words {
		number, err := strconv.ParseFloat(word, 64)
		if err != nil {
			c.say("invalid number '%s'", word)
			return 1
		}
		switch {
		case len(words) == 1:
			numbers[2] = number
		case len(words) == 2:
			numbers[at*2] = number
		default:
			numbers[at] = number
		}
	}
	if numbers[1] == 0 {
		c.say("the step can't be 0")
		return 1
	}
	writer := bufio.NewWriter(c.out)
	defer writer.Flush()
	for step := 0.0; ; step++ {
		value := numbers[0] + step*numbers[1]
		if numbers[1] > 0 && value > numbers[2] || numbers[1] < 0 && value < numbers[2] {
			return 0
		}
		fmt.Fprintln(writer, strconv.FormatFloat(value, 'f', -1, 64))
	}
}

// xargs runs a tool with what stdin names.
func xargs(c *call) int {
	set := c.flags()
	set.SetInterspersed(false)
	null := set.BoolP("null", "0", false, "names end with NUL")
	most := set.IntP("max-args", "n", 0, "so many in one call")
	replace := set.StringP("replace", "I", "", "a call for each line, which stands for this")
	skip := set.BoolP("no-run-if-empty", "r", false, "no call without names")
	command := c.parse(set)
	if len(command) == 0 {
		command = []string{"echo"}
	}
	data, _ := io.ReadAll(c.in)
	var words []string
	switch text := string(data); {
	case *null:
		words = strings.Split(strings.TrimSuffix(text, "\x00"), "\x00")
	case *replace != "":
		words = strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	default:
		words = strings.Fields(text)
	}
	if len(words) == 0 && *skip || len(data) == 0 && (*null || *replace != "") {
		return 0
	}
	status := 0
	do := func(args []string) {
		inner := *c
		inner.args, inner.in, inner.status = args, strings.NewReader(""), 0
		switch code := run(&inner); {
		case code == notFound || code == cannotExecute:
			status = code
		case code != 0:
			status = 123
		}
	}
	if *replace != "" {
		for _, word := range words {
			var args []string
			for _, one := range command {
				args = append(args, strings.ReplaceAll(one, *replace, word))
			}
			do(args)
		}
		return status
	}
	for first := true; first || len(words) > 0; first = false {
		count := len(words)
		if *most > 0 && count > *most {
			count = *most
		}
		do(append(append([]string{}, command...), words[:count]...))
		words = words[count:]
	}
	return status
}
