// Command ttrpc-go is containerd's own ttrpc at the other end of the wire, for the tests of the
// Python implementation.
//
//	ttrpc-go server SOCKET    serves until SIGTERM, then shuts down in order
//	ttrpc-go client SOCKET    makes every check and prints one JSON object a line
//	ttrpc-go bench SOCKET N   makes N calls one after the other and prints calls per second
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/containerd/ttrpc"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "ttrpc-go:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "server":
		return serve(args[1])
	case len(args) == 2 && args[0] == "client":
		return check(args[1])
	case len(args) == 3 && args[0] == "bench":
		return bench(args[1], args[2])
	}
	return errors.New("usage: ttrpc-go server|client SOCKET, ttrpc-go bench SOCKET N")
}

func serve(path string) error {
	server, err := ttrpc.NewServer(
		ttrpc.WithServerHandshaker(ttrpc.UnixSocketRequireSameUser()))
	if err != nil {
		return err
	}
	server.RegisterService(serviceName, describe())
	listener, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	done := make(chan error, 1)
	go func() {
		<-stop
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		done <- server.Shutdown(ctx)
	}()
	fmt.Println("ready")
	if err := server.Serve(context.Background(), listener); !errors.Is(err, ttrpc.ErrServerClosed) {
		return err
	}
	return <-done
}

func dial(path string) (*ttrpc.Client, error) {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return nil, err
	}
	return ttrpc.NewClient(conn), nil
}

func bench(path, times string) error {
	n, err := strconv.Atoi(times)
	if err != nil {
		return err
	}
	client, err := dial(path)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx := context.Background()
	begin := time.Now()
	for range n {
		if err := client.Call(ctx, serviceName, "Echo", newBytes(), newBytes()); err != nil {
			return err
		}
	}
	fmt.Printf("%.0f\n", float64(n)/time.Since(begin).Seconds())
	return nil
}
