package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

type world struct {
	client *ttrpc.Client
	path   string
}

func (w world) call(ctx context.Context, method string, req, resp proto.Message) error {
	return w.client.Call(ctx, serviceName, method, req, resp)
}

// text makes of an error what a test can compare: "code message [details]".
func text(err error) string {
	if err == nil {
		return "ok"
	}
	st, ok := status.FromError(err)
	if !ok {
		return err.Error()
	}
	out := fmt.Sprintf("%d %s", st.Code(), st.Message())
	for _, detail := range st.Details() {
		out += fmt.Sprintf(" [%v]", detail)
	}
	return out
}

var checks = []struct {
	name string
	run  func(context.Context, world) (string, error)
}{
	{"unary", func(ctx context.Context, w world) (string, error) {
		resp := newBytes()
		err := w.call(ctx, "Echo", wrapperspb.Bytes([]byte("hello")), resp)
		return string(resp.Value), err
	}},
	{"empty", func(ctx context.Context, w world) (string, error) {
		resp := newBytes()
		err := w.call(ctx, "Echo", newBytes(), resp)
		return fmt.Sprint(len(resp.Value)), err
	}},
	{"errors", func(ctx context.Context, w world) (string, error) {
		var out []string
		for code := range int64(17) {
			out = append(out, text(w.call(ctx, "Fail", wrapperspb.Int64(code), newBytes())))
		}
		return strings.Join(out, "\n"), nil
	}},
	{"unknown", func(ctx context.Context, w world) (string, error) {
		return text(w.call(ctx, "Gone", newText(), newText())) + "\n" +
			text(w.client.Call(ctx, "no.Such", "Echo", newText(), newText())), nil
	}},
	{"bad request", func(ctx context.Context, w world) (string, error) {
		// The same field, but a string must be UTF-8.
		return text(w.call(ctx, "Wait", wrapperspb.Bytes([]byte{0xff, 0xfe}), newText())), nil
	}},
	{"metadata", func(ctx context.Context, w world) (string, error) {
		ctx = ttrpc.WithMetadata(ctx, ttrpc.MD{"one": {"1"}, "many": {"a", "b"}})
		resp := newText()
		err := w.call(ctx, "Metadata", newText(), resp)
		return resp.Value, err
	}},
	{"deadline", deadlines},
	{"expired", func(ctx context.Context, w world) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, 30*time.Millisecond)
		defer cancel()
		err := w.call(ctx, "Wait", newText(), newText())
		after := w.call(context.Background(), "Echo", newBytes(), newBytes())
		// Client and server see the deadline in the same moment: either may say so first.
		if errors.Is(err, context.DeadlineExceeded) || strings.HasPrefix(text(err), "4 ") {
			return "late, then " + text(after), nil
		}
		return text(err), nil
	}},
	{"concurrency", concurrency},
	{"limits", limits},
	{"server stream", serverStream},
	{"client stream", clientStream},
	{"bidirectional", bidirectional},
	{"abandoned", abandoned},
}

func deadlines(ctx context.Context, w world) (string, error) {
	none, some := newInt(), newInt()
	if err := w.call(ctx, "Deadline", newText(), none); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err := w.call(ctx, "Deadline", newText(), some)
	return fmt.Sprint(none.Value, some.Value > 9000 && some.Value <= 10000), err
}

func concurrency(ctx context.Context, w world) (string, error) {
	waited := make(chan error, 1)
	go func() { waited <- w.call(ctx, "Wait", newText(), newText()) }()
	var group sync.WaitGroup
	failed := make(chan error, 400)
	for n := range 400 {
		group.Add(1)
		go func() {
			defer group.Done()
			resp, want := newBytes(), []byte(fmt.Sprint(n))
			if err := w.call(ctx, "Echo", wrapperspb.Bytes(want), resp); err != nil {
				failed <- err
			} else if !bytes.Equal(resp.Value, want) {
				failed <- fmt.Errorf("%s came back as %s", want, resp.Value)
			}
		}()
	}
	group.Wait()
	close(failed)
	for err := range failed {
		return "", err
	}
	select {
	case err := <-waited:
		return "", fmt.Errorf("Wait did not wait: %w", err)
	default:
	}
	if err := w.call(ctx, "Release", newText(), newText()); err != nil {
		return "", err
	}
	return text(<-waited), nil
}

func limits(ctx context.Context, w world) (string, error) {
	const limit = 4 << 20
	fits, over := newBytes(), newBytes()
	var out []string
	out = append(out, text(w.call(ctx, "Big", wrapperspb.Int64(limit-20), fits)), fmt.Sprint(len(fits.Value)))
	out = append(out, text(w.call(ctx, "Big", wrapperspb.Int64(limit), over)))
	// Go's client refuses to send one that is too long; the connection must survive that as well.
	err := w.call(ctx, "Echo", wrapperspb.Bytes(make([]byte, limit+1)), newBytes())
	out = append(out, text(err))
	out = append(out, text(w.call(ctx, "Echo", newBytes(), newBytes())))
	return strings.Join(out, "\n"), nil
}

func serverStream(ctx context.Context, w world) (string, error) {
	desc := &ttrpc.StreamDesc{StreamingServer: true}
	read := func(n int64) (string, error) {
		stream, err := w.client.NewStream(ctx, desc, serviceName, "Count", wrapperspb.Int64(n))
		if err != nil {
			return "", err
		}
		total := int64(0)
		for {
			msg := newInt()
			if err := stream.RecvMsg(msg); errors.Is(err, io.EOF) {
				return fmt.Sprintf("%d ok", total), nil
			} else if err != nil {
				return fmt.Sprintf("%d %s", total, text(err)), nil
			}
			if msg.Value != total {
				return "", fmt.Errorf("%d came as number %d", msg.Value, total)
			}
			total++
		}
	}
	many, err := read(5000)
	if err != nil {
		return "", err
	}
	none, err := read(0)
	if err != nil {
		return "", err
	}
	failing, err := read(-3)
	return many + "\n" + none + "\n" + failing, err
}

func clientStream(ctx context.Context, w world) (string, error) {
	var out []string
	for _, n := range []int64{0, 3000} {
		desc := &ttrpc.StreamDesc{StreamingClient: true}
		stream, err := w.client.NewStream(ctx, desc, serviceName, "Sum", nil)
		if err != nil {
			return "", err
		}
		for i := range n {
			if err := stream.SendMsg(wrapperspb.Int64(i)); err != nil {
				return "", err
			}
		}
		if err := stream.CloseSend(); err != nil {
			return "", err
		}
		resp := newInt()
		if err := stream.RecvMsg(resp); err != nil {
			return "", err
		}
		out = append(out, fmt.Sprint(resp.Value))
	}
	return strings.Join(out, "\n"), nil
}

func bidirectional(ctx context.Context, w world) (string, error) {
	desc := &ttrpc.StreamDesc{StreamingClient: true, StreamingServer: true}
	stream, err := w.client.NewStream(ctx, desc, serviceName, "Chat", nil)
	if err != nil {
		return "", err
	}
	for n := range 500 {
		want := fmt.Sprintf("word %d", n)
		if n == 7 {
			want = "" // an empty message is a message
		}
		if err := stream.SendMsg(wrapperspb.String(want)); err != nil {
			return "", err
		}
		got := newText()
		if err := stream.RecvMsg(got); err != nil {
			return "", err
		}
		if got.Value != strings.ToUpper(want) {
			return "", fmt.Errorf("%q came back as %q", want, got.Value)
		}
	}
	if err := stream.CloseSend(); err != nil {
		return "", err
	}
	return fmt.Sprint(stream.RecvMsg(newText())), nil
}

// abandoned leaves calls and streams open and closes the connection over them.
func abandoned(ctx context.Context, w world) (string, error) {
	client, err := dial(w.path)
	if err != nil {
		return "", err
	}
	waited := make(chan error, 1)
	go func() { waited <- client.Call(ctx, serviceName, "Block", newText(), newText()) }()
	desc := &ttrpc.StreamDesc{StreamingClient: true, StreamingServer: true}
	if _, err := client.NewStream(ctx, desc, serviceName, "Chat", nil); err != nil {
		return "", err
	}
	if err := client.Call(ctx, serviceName, "Echo", newBytes(), newBytes()); err != nil {
		return "", err
	}
	client.Close()
	if err := <-waited; !errors.Is(err, ttrpc.ErrClosed) {
		return "", fmt.Errorf("not closed: %w", err)
	}
	return text(w.call(ctx, "Echo", newBytes(), newBytes())), nil
}

func check(path string) error {
	client, err := dial(path)
	if err != nil {
		return err
	}
	defer client.Close()
	out := json.NewEncoder(os.Stdout)
	for _, check := range checks {
		ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
		// Most checks must not send a deadline.
		plain := context.WithoutCancel(ctx)
		done := make(chan map[string]string, 1)
		go func() {
			got, err := check.run(plain, world{client, path})
			result := map[string]string{"check": check.name, "got": got}
			if err != nil {
				result["error"] = text(err)
			}
			done <- result
		}()
		select {
		case result := <-done:
			err = out.Encode(result)
		case <-ctx.Done():
			err = out.Encode(map[string]string{"check": check.name, "error": "no answer in a minute"})
		}
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}
