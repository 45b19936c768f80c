package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"
)

// pgrep gives the numbers of the processes whose name a pattern fits; 1 if there are none.
func pgrep(c *call) int {
	set := c.flags()
	exact := set.BoolP("exact", "x", false, "the whole name")
	full := set.BoolP("full", "f", false, "the whole command line")
	long := set.BoolP("list-name", "l", false, "names, too")
	operands := c.parse(set)
	c.need(operands, 1, 1)
	pattern, err := expression(operands, false, true, false, false, *exact)
	if err != nil {
		c.say("%v", err)
		return usage
	}
	return c.pick("\n", func(one process) (string, bool) {
		name := one.short
		if *full {
			name = one.name
		}
		text := strconv.Itoa(one.pid)
		if *long {
			text += " " + name
		}
		return text, pattern.MatchString(name)
	})
}

// pidof gives the numbers of the processes of these names.
func pidof(c *call) int {
	set := c.flags()
	set.BoolP("single", "s", false, "ignored")
	names := c.parse(set)
	return c.pick(" ", func(one process) (string, bool) {
		program, _, _ := strings.Cut(one.name, " ")
		for _, name := range names {
			if name == one.short || name == program || name == path.Base(program) {
				return strconv.Itoa(one.pid), true
			}
		}
		return "", false
	})
}

func (c *call) pick(between string, wanted func(process) (string, bool)) int {
	found, _ := processes()
	var picked []string
	for _, one := range found {
		if text, yes := wanted(one); yes {
			picked = append(picked, text)
		}
	}
	if len(picked) == 0 {
		return 1
	}
	fmt.Fprintln(c.out, strings.Join(picked, between))
	return 0
}

// What ipcs shows: a title, and the columns of a file of /proc/sysvipc by their headings.
var ipcKinds = []struct {
	file, title string
	columns     []string
}{
	{"msg", "Message Queues", []string{"key", "msqid", "uid", "perms", "cbytes", "qnum"}},
	{"shm", "Shared Memory Segments", []string{"key", "shmid", "uid", "perms", "size", "nattch"}},
	{"sem", "Semaphore Arrays", []string{"key", "semid", "uid", "perms", "nsems"}},
}

// ipcs shows the IPC namespace: System V's queues, shared memory and semaphores.
func ipcs(c *call) int {
	set := c.flags()
	chosen := []*bool{
		set.BoolP("queues", "q", false, "message queues"),
		set.BoolP("shmems", "m", false, "shared memory"),
		set.BoolP("semaphores", "s", false, "semaphores"),
	}
	c.need(c.parse(set), 0, 0)
	all := !*chosen[0] && !*chosen[1] && !*chosen[2]
	for at, kind := range ipcKinds {
		if !all && !*chosen[at] {
			continue
		}
		rows, err := table("/proc/sysvipc/" + kind.file)
		if err != nil {
			c.failed("/proc/sysvipc/"+kind.file, err)
			continue
		}
		fmt.Fprintf(c.out, "\n------ %s ------\n", kind.title)
		for row, words := range rows {
			for _, name := range kind.columns {
				if row == 0 {
					words[name] = name
				} else if number, err := strconv.Atoi(words[name]); err == nil && name == "key" {
					words[name] = fmt.Sprintf("0x%08x", uint32(number))
				}
				fmt.Fprintf(c.out, "%-11s", words[name])
			}
			fmt.Fprintln(c.out)
		}
	}
	return c.status
}

// table reads lines of words below a line of headings; the first row is of the headings.
func table(file string) ([]map[string]string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var rows []map[string]string
	var headings []string
	for _, line := range strings.Split(strings.TrimSpace(string(data)), "\n") {
		words := strings.Fields(line)
		if headings == nil {
			headings = words
		}
		row := map[string]string{}
		for at := 0; at < len(words) && at < len(headings); at++ {
			row[headings[at]] = words[at]
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// The states of proc_net_tcp(5), from 01.
var tcpStates = []string{
	"", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE",
	"CLOSE_WAIT", "LAST_ACK", "LISTEN", "CLOSING",
}

// netstat shows the sockets of the network namespace, with numbers only.
func netstat(c *call) int {
	set := c.flags()
	all := set.BoolP("all", "a", false, "those that listen, too")
	listening := set.BoolP("listening", "l", false, "those that listen alone")
	tcp := set.BoolP("tcp", "t", false, "TCP")
	udp := set.BoolP("udp", "u", false, "UDP")
	set.BoolP("numeric", "n", false, "ignored: there are no names")
	c.need(c.parse(set), 0, 0)
	both := !*tcp && !*udp
	fmt.Fprintf(c.out, "%-5s %6s %6s %-23s %-23s %s\n",
		"Proto", "Recv-Q", "Send-Q", "Local Address", "Foreign Address", "State")
	shown := false
	for _, kind := range []string{"tcp", "tcp6", "udp", "udp6"} {
		if !both && !(*tcp && kind[0] == 't' || *udp && kind[0] == 'u') {
			continue
		}
		file, err := os.Open("/proc/net/" + kind)
		if err != nil {
			continue // IPv6 may be off
		}
		shown = true
		lines := bufio.NewScanner(file)
		for lines.Scan() {
			one, ok := readSocket(lines.Text(), kind)
			if ok && (*all || one.listens == *listening) {
				fmt.Fprintf(c.out, "%-5s %6d %6d %-23s %-23s %s\n",
					kind, one.receive, one.send, one.local, one.remote, one.state)
			}
		}
		file.Close()
	}
	if !shown {
		c.say("/proc shows no network here")
	}
	return c.status
}

type netSocket struct {
	local, remote, state string
	receive, send        int64
	listens              bool
}

// readSocket reads a line such as "0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 ...".
func readSocket(line, kind string) (found netSocket, ok bool) {
	words := strings.Fields(line)
	if len(words) < 5 || !strings.HasSuffix(words[0], ":") {
		return found, false
	}
	state, _ := strconv.ParseInt(words[3], 16, 0)
	if kind[0] == 't' && int(state) < len(tcpStates) {
		found.state = tcpStates[state]
	}
	found.local, found.remote = endpoint(words[1]), endpoint(words[2])
	// A UDP socket without a peer takes from anybody.
	found.listens = found.state == "LISTEN" || kind[0] == 'u' && strings.HasSuffix(found.remote, ":*")
	send, receive, _ := strings.Cut(words[4], ":")
	found.send, _ = strconv.ParseInt(send, 16, 64)
	found.receive, _ = strconv.ParseInt(receive, 16, 64)
	return found, true
}

var hexWord = regexp.MustCompile("........")

// endpoint reads an address in words of the machine's order (little endian), and a port.
func endpoint(text string) string {
	address, port, _ := strings.Cut(text, ":")
	var bytes []byte
	for _, word := range hexWord.FindAllString(address, -1) {
		number, _ := strconv.ParseUint(word, 16, 32)
		bytes = append(bytes, byte(number), byte(number>>8), byte(number>>16), byte(number>>24))
	}
	number, _ := strconv.ParseUint(port, 16, 16)
	if number == 0 {
		return net.IP(bytes).String() + ":*"
	}
	return fmt.Sprintf("%s:%d", net.IP(bytes), number)
}
