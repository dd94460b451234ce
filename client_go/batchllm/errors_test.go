package batchllm

import (
	"context"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
	"testing"
	"time"

	batchllmv1 "github.com/batch-llm/batch-llm/client_go/batchllm/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestWhatAnErrorIs(t *testing.T) {
	all := []error{
		ErrUnavailable, ErrDraining, ErrJournalUnavailable, ErrInvalidRequest, ErrNotFound, ErrBatchNotFound,
		ErrAlreadyExists, ErrIdempotencyConflict, ErrPermissionDenied, ErrFailedPrecondition, ErrBatchNotFinished, ErrAborted,
		ErrBatchInUse, ErrDeadlineExceeded, ErrResourceExhausted, ErrJournalFull, ErrMessageTooLarge, ErrBatchLost, ErrCanceled,
		ErrClosed, ErrUnexpected,
	}
	for _, test := range []struct {
		code   codes.Code
		reason Reason
		is     []error
	}{
		{codes.Unavailable, "", []error{ErrUnavailable}},
		{codes.Unavailable, ReasonServerDraining, []error{ErrUnavailable, ErrDraining}},
		{codes.Unavailable, ReasonJournalUnavailable, []error{ErrUnavailable, ErrJournalUnavailable}},
		{codes.InvalidArgument, ReasonInvalidField, []error{ErrInvalidRequest}},
		{codes.OutOfRange, "", []error{ErrInvalidRequest}},
		{codes.NotFound, ReasonStrategyNotFound, []error{ErrNotFound}},
		{codes.NotFound, ReasonBatchNotFound, []error{ErrNotFound, ErrBatchNotFound}},
		{codes.AlreadyExists, ReasonStrategyExists, []error{ErrAlreadyExists}},
		{codes.AlreadyExists, ReasonIdempotencyConflict, []error{ErrAlreadyExists, ErrIdempotencyConflict}},
		{codes.PermissionDenied, ReasonRegistrationDisabled, []error{ErrPermissionDenied}},
		{codes.Unauthenticated, "", []error{ErrPermissionDenied}},
		{codes.FailedPrecondition, ReasonStrategyInUse, []error{ErrFailedPrecondition}},
		{codes.FailedPrecondition, ReasonBatchNotFinished, []error{ErrFailedPrecondition, ErrBatchNotFinished}},
		{codes.Aborted, "", []error{ErrAborted}},
		{codes.Aborted, ReasonBatchInUse, []error{ErrAborted, ErrBatchInUse}},
		{codes.DeadlineExceeded, "", []error{ErrDeadlineExceeded, context.DeadlineExceeded}},
		{codes.ResourceExhausted, "", []error{ErrResourceExhausted}},
		{codes.ResourceExhausted, ReasonJournalFull, []error{ErrResourceExhausted, ErrJournalFull}},
		{codes.Canceled, "", []error{ErrCanceled}},
		{codes.Unknown, "", []error{ErrUnexpected}},
		{codes.Internal, ReasonInternal, []error{ErrUnexpected}},
		{codes.Unimplemented, "", []error{ErrUnexpected}},
	} {
		err := fromRPC(context.Background(), failing(test.code, test.reason), "here")
		checkIs(t, err, test.is...)
		count := 0
		for _, kind := range append(all, context.DeadlineExceeded, context.Canceled) {
			if errors.Is(err, kind) {
				count++
			}
		}
		if count != len(test.is) {
			t.Errorf("%v %s is %d things", test.code, test.reason, count)
		}
		if status.Code(err) != test.code {
			t.Errorf("gRPC reads it as %v", status.Code(err))
		}
	}
}

func TestTheFactsOfAnError(t *testing.T) {
	raw := failing(codes.NotFound, "", &errdetails.ErrorInfo{
		Reason: string(ReasonStrategyNotFound), Domain: domain, Metadata: map[string]string{"known": "a, b"},
	}, retryAfter(1500*time.Millisecond))
	var err *Error
	if !errors.As(fromRPC(context.Background(), raw, "here"), &err) {
		t.Fatal(raw)
	}
	if err.Reason != ReasonStrategyNotFound || err.Metadata["known"] != "a, b" || err.RetryAfter != 1500*time.Millisecond ||
		err.Message != "scripted" || err.Code != codes.NotFound {
		t.Errorf("%+v", err)
	}
	strange := failing(codes.NotFound, "", &errdetails.ErrorInfo{Reason: "OTHER", Domain: "example.com"})
	if errors.As(fromRPC(context.Background(), strange, "here"), &err); err.Reason != "" || err.Metadata != nil {
		t.Errorf("the reason of another domain: %+v", err)
	}
}

func TestWhereGRPCSpeaksTheWayOutIsTold(t *testing.T) {
	for code, words := range map[codes.Code]string{
		codes.Unavailable:      "no batch-llm sidecar answers at 127.0.0.1:1 (",
		codes.DeadlineExceeded: "127.0.0.1:1 did not finish in time",
		codes.Unimplemented:    "127.0.0.1:1 does not know this call",
		codes.Unknown:          "scripted",
	} {
		if text := fromRPC(context.Background(), failing(code, ""), "127.0.0.1:1").Error(); !strings.Contains(text, words) {
			t.Error(text)
		}
	}
	_, err := newClient(t, "127.0.0.1:1").GetBatch(within(t), "b")
	checkIs(t, err, ErrUnavailable)
}

func TestReasonsAreTheProtocols(t *testing.T) {
	source, err := parser.ParseFile(token.NewFileSet(), "reasons.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	ast.Inspect(source, func(node ast.Node) bool {
		if constant, ok := node.(*ast.ValueSpec); ok && strings.HasPrefix(constant.Names[0].Name, "Reason") {
			listed[strings.Trim(constant.Values[0].(*ast.BasicLit).Value, `"`)] = true
		}
		return true
	})
	for number := range batchllmv1.ErrorReason_name {
		if reason := reasonOf(batchllmv1.ErrorReason(number)); number != 0 && !listed[string(reason)] {
			t.Errorf("add %s to reasons.go", reason)
		}
	}
	if count := len(batchllmv1.ErrorReason_name) - 1; len(listed) != count {
		t.Errorf("%d listed, not %d", len(listed), count)
	}
	if reason := reasonOf(9999); reason != "UNSPECIFIED" {
		t.Error(reason)
	}
}
