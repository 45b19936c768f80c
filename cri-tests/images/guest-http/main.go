// The HTTP guest: a WASI preview 1 server on the listening sockets that it is started with. WASI
// preview 1 can accept but not listen, so LISTEN_FDS says how many there are, from descriptor 3 on.
//
//	/            who answers: HOSTNAME and the arguments
//	/healthz     ok, or 503 when the file named by the first argument is there
package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
)

const firstSocket = 3

func main() {
	listener, err := net.FileListener(os.NewFile(firstSocket, "listener"))
	if err != nil {
		fmt.Fprintf(os.Stderr, "guest: LISTEN_FDS=%s: %v\n", os.Getenv("LISTEN_FDS"), err)
		os.Exit(1)
	}
	http.HandleFunc("/", whoami)
	http.HandleFunc("/healthz", health)
	fmt.Println("serving")
	fmt.Fprintln(os.Stderr, "guest:", http.Serve(listener, nil))
	os.Exit(1)
}

func whoami(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprintln(w, os.Getenv("HOSTNAME"), strings.Join(os.Args[1:], " "))
}

func health(w http.ResponseWriter, _ *http.Request) {
	if len(os.Args) > 1 {
		if _, err := os.Stat(os.Args[1]); !errors.Is(err, fs.ErrNotExist) {
			http.Error(w, "sick", http.StatusServiceUnavailable)
			return
		}
	}
	fmt.Fprintln(w, "ok")
}
