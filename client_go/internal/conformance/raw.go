package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"time"

	batchllmv1 "github.com/batch-llm/batch-llm/client_go/batchllm/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

const callTimeout = time.Minute

// rawStream is a call of ProcessBatch, or why there is none.
type rawStream struct {
	grpc.BidiStreamingClient[batchllmv1.ProcessBatchRequest, batchllmv1.ProcessBatchResponse]
	cancel context.CancelFunc
	failed error
}

// rawAdapter drives generated code alone.
type rawAdapter struct {
	connections kept[*grpc.ClientConn]
	streams     kept[*rawStream]
}

func newRawAdapter() *rawAdapter { return &rawAdapter{} }

func (*rawAdapter) hello() answer { return answer{"name": "go-generated", "sets": []string{"raw"}} }

func (*rawAdapter) explain(err error) answer {
	reported, ok := status.FromError(err)
	if !ok {
		return nil
	}
	details, _ := proto.Marshal(reported.Proto()) // it came as bytes
	return answer{
		"code":    codeNames[reported.Code()],
		"message": reported.Message(),
		"details": base64.StdEncoding.EncodeToString(details),
	}
}

func (r *rawAdapter) do(told command) (answer, error) {
	switch told.Do {
	case "connect":
		connection, err := grpc.NewClient(told.Target, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return nil, err
		}
		r.connections.put(told.Client, connection)
		return nil, nil
	case "close":
		connection, err := r.connections.get(told.Client)
		if err != nil {
			return nil, err
		}
		return nil, connection.Close()
	case "call":
		return r.call(told)
	case "stream.open":
		return nil, r.open(told)
	}
	stream, err := r.streams.get(told.Stream)
	if err != nil {
		return nil, err
	}
	if stream.failed != nil {
		if told.Do == "stream.next" {
			return nil, stream.failed
		}
		return nil, nil
	}
	switch told.Do {
	case "stream.send":
		frame, err := read(told.Frame, &batchllmv1.ProcessBatchRequest{})
		if err != nil {
			return nil, err
		}
		if err := stream.Send(frame); !errors.Is(err, io.EOF) { // that one tells that the stream has ended
			return nil, err
		}
		return nil, nil
	case "stream.half_close":
		return nil, stream.CloseSend()
	case "stream.next":
		frame, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return answer{"end": true}, nil
		} else if err != nil {
			return nil, err
		}
		return answer{"frame": shown{frame}}, nil
	case "stream.cancel":
		stream.cancel()
		return nil, nil
	}
	return nil, fault{fmt.Errorf("unknown command %q", told.Do)}
}

func (r *rawAdapter) open(told command) error {
	connection, err := r.connections.get(told.Client)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	if told.Timeout != nil {
		ctx, cancel = context.WithTimeout(context.Background(), seconds(*told.Timeout))
	}
	stream, err := batchllmv1.NewBatchServiceClient(connection).ProcessBatch(ctx)
	r.streams.put(told.Stream, &rawStream{stream, cancel, err})
	return nil
}

// call finds the method by its name: names are unique over the services.
func (r *rawAdapter) call(told command) (answer, error) {
	connection, err := r.connections.get(told.Client)
	if err != nil {
		return nil, err
	}
	timeout := callTimeout
	if told.Timeout != nil {
		timeout = seconds(*told.Timeout)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	for _, service := range []string{"BatchService", "StrategyService", "CacheLifecycleService"} {
		found, err := protoregistry.GlobalFiles.FindDescriptorByName(
			protoreflect.FullName("batchllm.v1." + service + "." + told.Method))
		if err != nil {
			continue
		}
		method := found.(protoreflect.MethodDescriptor)
		request, err := read(told.Request, message(method.Input()))
		if err != nil {
			return nil, err
		}
		response := message(method.Output())
		path := "/batchllm.v1." + service + "/" + told.Method
		if err := connection.Invoke(ctx, path, request, response); err != nil {
			return nil, err
		}
		return answer{"response": shown{response}}, nil
	}
	return nil, fault{fmt.Errorf("unknown method %q", told.Method)}
}

func message(of protoreflect.MessageDescriptor) proto.Message {
	found, err := protoregistry.GlobalTypes.FindMessageByName(of.FullName())
	if err != nil {
		panic(err) // the generated code registers it
	}
	return found.New().Interface()
}

func seconds(number float64) time.Duration { return time.Duration(number * float64(time.Second)) }
