package main

import (
	"fmt"
	"os"
	"path"
	"sort"
	"strconv"
	"strings"
	"time"
)

type process struct {
	pid, parent        int
	state, name, owner string
	short              string // at most 15 bytes
	ticks, kilobytes   int64
}

// ps shows what /proc shows: the container's processes, without this one.
func ps(c *call) int {
	set := c.flags()
	set.BoolP("all", "e", false, "ignored: all are shown")
	set.BoolP("any", "A", false, "ignored: all are shown")
	set.BoolP("full", "f", false, "ignored")
	set.BoolP("long", "l", false, "ignored")
	set.BoolP("wide", "w", false, "ignored")
	set.StringP("format", "o", "", "ignored")
	c.parse(set)
	return c.listProcesses()
}

// processes gives what /proc shows, by number.
func processes() ([]process, error) {
	names, err := os.ReadDir("/proc")
	var found []process
	for _, one := range names {
		if pid, wrong := strconv.Atoi(one.Name()); wrong == nil {
			if read, ok := readProcess(pid); ok {
				found = append(found, read)
			}
		}
	}
	sort.Slice(found, func(a, b int) bool { return found[a].pid < found[b].pid })
	return found, err
}

// top is ps again and again, for ever unless -n says how often; what it can't see may come.
func top(c *call) int {
	set := c.flags()
	set.BoolP("batch", "b", false, "ignored: nothing is drawn over")
	delay := set.Float64P("delay", "d", 5, "seconds between two lists")
	count := set.IntP("iterations", "n", 0, "how many lists; 0: no end")
	c.parse(set)
	for shown := 1; ; shown++ {
		c.listProcesses()
		if shown == *count {
			return c.status
		}
		select {
		case <-time.After(time.Duration(*delay * float64(time.Second))):
			fmt.Fprintln(c.out)
		case <-c.ctx.Done():
			return c.status
		}
	}
}

// listProcesses prints a line for each.
func (c *call) listProcesses() int {
	found, err := processes()
	if err != nil {
		c.failed("/proc", err)
		return c.status
	}
	if len(found) == 0 {
		c.say("/proc shows no processes here")
		return c.status
	}
	fmt.Fprintf(c.out, "%5s %5s %-8s %s %8s %8s %s\n", "PID", "PPID", "USER", "S", "RSS", "TIME", "COMMAND")
	for _, one := range found {
		seconds := one.ticks / 100
		fmt.Fprintf(c.out, "%5d %5d %-8s %s %7dk %5d:%02d %s\n",
			one.pid, one.parent, one.owner, one.state, one.kilobytes, seconds/60, seconds%60, one.name)
	}
	return c.status
}

// readProcess reads /proc/<pid>/stat, status and cmdline: proc(5).
func readProcess(pid int) (process, bool) {
	found := process{pid: pid}
	folder := path.Join("/proc", strconv.Itoa(pid))
	stat, err := os.ReadFile(folder + "/stat")
	if err != nil {
		return found, false
	}
	text := string(stat)
	open, shut := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
	if open < 0 || shut < open {
		return found, false
	}
	fields := strings.Fields(text[shut+1:])
	if len(fields) < 22 {
		return found, false
	}
	found.short, found.state = text[open+1:shut], fields[0]
	found.parent, _ = strconv.Atoi(fields[1])
	for _, ticks := range fields[11:13] { // utime, stime
		number, _ := strconv.ParseInt(ticks, 10, 64)
		found.ticks += number
	}
	status, _ := os.ReadFile(folder + "/status")
	for _, line := range strings.Split(string(status), "\n") {
		words := strings.Fields(line)
		switch {
		case len(words) > 1 && words[0] == "VmRSS:":
			found.kilobytes, _ = strconv.ParseInt(words[1], 10, 64)
		case len(words) > 1 && words[0] == "Uid:":
			found.owner = words[1]
			if known := entry("/etc/passwd", words[1]); known != "" {
				found.owner = known
			}
		}
	}
	line, _ := os.ReadFile(folder + "/cmdline")
	found.name = strings.TrimSpace(strings.ReplaceAll(strings.TrimRight(string(line), "\x00"), "\x00", " "))
	if found.name == "" {
		found.name = "[" + found.short + "]"
	}
	return found, true
}
