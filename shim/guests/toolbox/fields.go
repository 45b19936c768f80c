package main

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
)

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
