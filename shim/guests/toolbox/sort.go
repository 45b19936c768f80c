package main

import (
	"bytes"
	"io"
	"os"
	"sort"
	"strconv"
	"strings"
)

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
