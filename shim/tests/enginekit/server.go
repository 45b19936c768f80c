// A Go guest that serves on the listening sockets it was started with: HTTP on the first, an echo
// of lines on the second. "GET /quit" ends it.
package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"
)

func main() {
	count, _ := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	listeners := []net.Listener{}
	for fd := 3; fd < 3+count; fd++ {
		listener, err := net.FileListener(os.NewFile(uintptr(fd), "listener"))
		if err != nil {
			fmt.Println("listener", fd, err)
			os.Exit(3)
		}
		listeners = append(listeners, listener)
	}
	entries, err := os.ReadDir("/")
	fmt.Println("root", len(entries) > 0, err)
	if len(listeners) > 1 {
		go echo(listeners[1])
	}
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %d\n", r.Method, r.URL.Path, len(body))
	})
	http.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(200 * time.Millisecond)
		fmt.Fprintln(w, "slow")
	})
	http.HandleFunc("/quit", func(w http.ResponseWriter, r *http.Request) {
		go func() {
			time.Sleep(50 * time.Millisecond)
			os.Exit(7)
		}()
	})
	fmt.Println("serving")
	fmt.Println(http.Serve(listeners[0], nil))
}

func echo(listener net.Listener) {
	for {
		connection, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer connection.Close()
			lines := bufio.NewScanner(connection)
			for lines.Scan() {
				fmt.Fprintf(connection, "echo %s\n", lines.Text())
			}
		}()
	}
}
