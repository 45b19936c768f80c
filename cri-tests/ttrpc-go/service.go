// The service that both programs know: what the Go server answers and the Go client asks for.
// Its messages are protobuf's well-known wrappers, so that no generated code is needed.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/containerd/ttrpc"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const serviceName = "interop.Test"

// gate lets calls of Wait return once Release has been called.
type gate struct {
	once sync.Once
	open chan struct{}
}

func (g *gate) release() { g.once.Do(func() { close(g.open) }) }

func unary[Req, Resp proto.Message](
	make func() Req, handle func(context.Context, Req) (Resp, error),
) ttrpc.Method {
	return func(ctx context.Context, unmarshal func(any) error) (any, error) {
		req := make()
		if err := unmarshal(req); err != nil {
			return nil, err
		}
		resp, err := handle(ctx, req)
		if err != nil {
			return nil, err
		}
		return resp, nil
	}
}

func newBytes() *wrapperspb.BytesValue { return &wrapperspb.BytesValue{} }
func newInt() *wrapperspb.Int64Value   { return &wrapperspb.Int64Value{} }
func newText() *wrapperspb.StringValue { return &wrapperspb.StringValue{} }

func echo(_ context.Context, req *wrapperspb.BytesValue) (*wrapperspb.BytesValue, error) {
	return req, nil
}

// fail answers with the code asked for and one detail.
func fail(_ context.Context, req *wrapperspb.Int64Value) (*wrapperspb.BytesValue, error) {
	detail, err := anypb.New(wrapperspb.String("why"))
	if err != nil {
		return nil, err
	}
	return nil, status.ErrorProto(&spb.Status{
		Code: int32(req.Value), Message: fmt.Sprintf("failed with %d", req.Value),
		Details: []*anypb.Any{detail},
	})
}

// metadata gives all that came as "key=value,value;key=value", sorted by key.
func metadata(ctx context.Context, _ *wrapperspb.StringValue) (*wrapperspb.StringValue, error) {
	md, _ := ttrpc.GetMetadata(ctx)
	var parts []string
	for key, values := range md {
		parts = append(parts, key+"="+strings.Join(values, ","))
	}
	sort.Strings(parts)
	return wrapperspb.String(strings.Join(parts, ";")), nil
}

// deadline gives the milliseconds that are left, or -1.
func deadline(ctx context.Context, _ *wrapperspb.StringValue) (*wrapperspb.Int64Value, error) {
	when, ok := ctx.Deadline()
	if !ok {
		return wrapperspb.Int64(-1), nil
	}
	return wrapperspb.Int64(time.Until(when).Milliseconds()), nil
}

// block waits for as long as its caller does.
func block(ctx context.Context, _ *wrapperspb.StringValue) (*wrapperspb.StringValue, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func big(_ context.Context, req *wrapperspb.Int64Value) (*wrapperspb.BytesValue, error) {
	return wrapperspb.Bytes(make([]byte, req.Value)), nil
}

// count sends the numbers below n; for a negative n, those below -n and then an error (Go's client
// sends no metadata with a stream that could ask for it).
func count(_ context.Context, stream ttrpc.StreamServer) (any, error) {
	req := newInt()
	if err := stream.RecvMsg(req); err != nil {
		return nil, err
	}
	for i := range max(req.Value, -req.Value) {
		if err := stream.SendMsg(wrapperspb.Int64(i)); err != nil {
			return nil, err
		}
	}
	if req.Value < 0 {
		return nil, status.Error(codes.DataLoss, "in the middle")
	}
	return nil, nil
}

func sum(_ context.Context, stream ttrpc.StreamServer) (any, error) {
	total := int64(0)
	for {
		req := newInt()
		if err := stream.RecvMsg(req); errors.Is(err, io.EOF) {
			return wrapperspb.Int64(total), nil
		} else if err != nil {
			return nil, err
		}
		total += req.Value
	}
}

func chat(_ context.Context, stream ttrpc.StreamServer) (any, error) {
	for {
		req := newText()
		if err := stream.RecvMsg(req); errors.Is(err, io.EOF) {
			return nil, nil
		} else if err != nil {
			return nil, err
		}
		if err := stream.SendMsg(wrapperspb.String(strings.ToUpper(req.Value))); err != nil {
			return nil, err
		}
	}
}

func describe() *ttrpc.ServiceDesc {
	waiting := &gate{open: make(chan struct{})}
	wait := func(ctx context.Context, req *wrapperspb.StringValue) (*wrapperspb.StringValue, error) {
		select {
		case <-waiting.open:
			return req, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	release := func(_ context.Context, req *wrapperspb.StringValue) (*wrapperspb.StringValue, error) {
		waiting.release()
		return req, nil
	}
	return &ttrpc.ServiceDesc{
		Methods: map[string]ttrpc.Method{
			"Echo":     unary(newBytes, echo),
			"Fail":     unary(newInt, fail),
			"Metadata": unary(newText, metadata),
			"Deadline": unary(newText, deadline),
			"Big":      unary(newInt, big),
			"Block":    unary(newText, block),
			"Wait":     unary(newText, wait),
			"Release":  unary(newText, release),
		},
		Streams: map[string]ttrpc.Stream{
			"Count": {Handler: count, StreamingServer: true},
			"Sum":   {Handler: sum, StreamingClient: true},
			"Chat":  {Handler: chat, StreamingClient: true, StreamingServer: true},
		},
	}
}
