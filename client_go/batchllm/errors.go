package batchllm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// domain is that of the reasons which this protocol knows.
const domain = "batchllm.v1"

// What an [*Error] is, for [errors.Is]. One may be several of them: [ErrDraining] is [ErrUnavailable] as well.
var (
	// ErrUnavailable: nobody answers at the target, or the connection broke.
	ErrUnavailable error = &kind{text: "no sidecar answers", codes: []codes.Code{codes.Unavailable}}
	// ErrDraining: the sidecar is shutting down; try again after RetryAfter. Also ErrUnavailable.
	ErrDraining error = &kind{text: "the sidecar is shutting down", reason: ReasonServerDraining}
	// ErrJournalUnavailable: the sidecar cannot write its journal now; what it accepted is safe. Also ErrUnavailable.
	ErrJournalUnavailable error = &kind{text: "the journal cannot be written now", reason: ReasonJournalUnavailable}
	// ErrInvalidRequest: a field is out of its range; Metadata["field"] names it.
	ErrInvalidRequest error = &kind{text: "invalid request", codes: []codes.Code{codes.InvalidArgument, codes.OutOfRange}}
	// ErrNotFound: there is no such strategy, cache or batch.
	ErrNotFound error = &kind{text: "not found", codes: []codes.Code{codes.NotFound}}
	// ErrBatchNotFound: it was deleted, its retention is over, or it never was. Also ErrNotFound.
	ErrBatchNotFound error = &kind{text: "no such batch", reason: ReasonBatchNotFound}
	// ErrAlreadyExists: the strategy's name has another spec; Metadata["differs"] says where.
	ErrAlreadyExists error = &kind{text: "already exists", codes: []codes.Code{codes.AlreadyExists}}
	// ErrIdempotencyConflict: the idempotency key was used for another item. Also ErrAlreadyExists.
	ErrIdempotencyConflict error = &kind{text: "idempotency key used before", reason: ReasonIdempotencyConflict}
	// ErrPermissionDenied: the operator does not allow it.
	ErrPermissionDenied error = &kind{
		text: "not allowed", codes: []codes.Code{codes.PermissionDenied, codes.Unauthenticated},
	}
	// ErrFailedPrecondition: it cannot be done as things are, e.g. unregistering a strategy in use.
	ErrFailedPrecondition error = &kind{text: "not as things are", codes: []codes.Code{codes.FailedPrecondition}}
	// ErrBatchNotFinished: the batch to delete has not ended. Also ErrFailedPrecondition.
	ErrBatchNotFinished error = &kind{text: "the batch has not ended", reason: ReasonBatchNotFinished}
	// ErrAborted: somebody else is at it.
	ErrAborted error = &kind{text: "aborted", codes: []codes.Code{codes.Aborted}}
	// ErrBatchInUse: the batch id is open on another stream. Also ErrAborted.
	ErrBatchInUse error = &kind{text: "the batch is in use", reason: ReasonBatchInUse}
	// ErrDeadlineExceeded: the context's deadline or the client's timeout ran out. Also context.DeadlineExceeded.
	ErrDeadlineExceeded error = &kind{text: "deadline exceeded", codes: []codes.Code{codes.DeadlineExceeded}}
	// ErrResourceExhausted: refused for size or load.
	ErrResourceExhausted error = &kind{text: "resource exhausted", codes: []codes.Code{codes.ResourceExhausted}}
	// ErrJournalFull: the disk of the sidecar's journal is full. Also ErrResourceExhausted.
	ErrJournalFull error = &kind{text: "the journal is full", reason: ReasonJournalFull}
	// ErrMessageTooLarge: see [MessageTooLargeError]. Also ErrResourceExhausted.
	ErrMessageTooLarge error = &kind{text: "message too large"}
	// ErrBatchLost: see [BatchLostError].
	ErrBatchLost error = &kind{text: "the batch is lost"}
	// ErrCanceled: by the context (then also context.Canceled), by Cancel, by closing the client, or by the server.
	ErrCanceled error = &kind{text: "canceled", codes: []codes.Code{codes.Canceled}}
	// ErrClosed: the client is closed. Also ErrCanceled.
	ErrClosed error = &kind{text: "the client is closed"}
	// ErrUnexpected: a bug in the sidecar, or something else behind the target.
	ErrUnexpected error = &kind{
		text: "unexpected", codes: []codes.Code{codes.OK, codes.Unknown, codes.Internal, codes.Unimplemented},
	}
)

// kind covers errors by their code or, where the sidecar gives a reason that has a kind of its own, by that.
type kind struct {
	text   string
	codes  []codes.Code
	reason Reason
}

func (k *kind) Error() string { return "batchllm: " + k.text }

// Error is what went wrong with a call or a batch. Branch on Reason, or with [errors.Is], never on Message.
type Error struct {
	// Code is gRPC's status code.
	Code codes.Code
	// Reason is the sidecar's, empty when it gave none.
	Reason Reason
	// Message is for people: what happened and the way out.
	Message string
	// Metadata has the facts behind the reason, nil when there are none.
	Metadata map[string]string
	// RetryAfter is how long the sidecar asks to wait before trying again, 0 when it does not.
	RetryAfter time.Duration

	kind  error
	cause error
}

// Error gives the message.
func (e *Error) Error() string { return "batchllm: " + e.Message }

// Is tells whether it is what one of the Err… values stands for.
func (e *Error) Is(target error) bool {
	of, ok := target.(*kind)
	if !ok {
		return false
	}
	return e.kind == target || (of.reason != "" && of.reason == e.Reason) || slices.Contains(of.codes, e.Code)
}

// Unwrap gives what lies behind it: the context's error, or the last try's.
func (e *Error) Unwrap() error { return e.cause }

// GRPCStatus lets [status.FromError] and [status.Code] read it.
func (e *Error) GRPCStatus() *status.Status { return status.New(e.Code, e.Message) }

// MessageTooLargeError says that an item alone exceeds the message limit; it was not sent. It is an [*Error] too.
type MessageTooLargeError struct {
	// ItemID names the item.
	ItemID string
	// Size is what it takes in bytes.
	Size int
	// Limit is in bytes: the client's or the server's, whichever is smaller.
	Limit int
}

// Error says what to do.
func (e *MessageTooLargeError) Error() string { return e.Unwrap().Error() }

// Unwrap gives the [*Error] that it is.
func (e *MessageTooLargeError) Unwrap() error {
	return &Error{
		Code: codes.ResourceExhausted,
		Message: fmt.Sprintf("item %q has %d bytes, more than the limit of %d bytes for a message: shorten its prompt "+
			"or context, or raise the limit on both sides (WithMaxMessageBytes)", e.ItemID, e.Size, e.Limit),
		kind: ErrMessageTooLarge,
	}
}

// BatchLostError says that the sidecar no longer holds items which it had accepted, so that the batch cannot be
// resumed. It is an [*Error] too.
type BatchLostError struct {
	// BatchID names the batch.
	BatchID string
	// Held is how many items the sidecar held.
	Held int64
	// LastSequence is that of the last result handed out.
	LastSequence int64
	// Durable is false if the journal was in memory and ended with the sidecar; true: the batch or the journal was
	// deleted.
	Durable bool
}

// Error says what to do.
func (e *BatchLostError) Error() string { return e.Unwrap().Error() }

// Unwrap gives the [*Error] that it is.
func (e *BatchLostError) Unwrap() error {
	cause := `it was restarted and its journal was in memory (journal.url = "memory")`
	if e.Durable {
		cause = "the batch was deleted, or a sidecar with another journal answers now"
	}
	return &Error{
		Code: codes.DataLoss,
		Message: fmt.Sprintf("the sidecar no longer holds the %d items that it had accepted of batch %q: %s; results "+
			"came up to sequence %d: send the items without one as a new batch", e.Held, e.BatchID, cause, e.LastSequence),
		kind: ErrBatchLost,
	}
}

// errCancel is the cause of a context that Cancel ended.
var errCancel = errors.New("batchllm: cancelled by Cancel")

// sourceError is the cause of a context that a batch's source ended by failing.
type sourceError struct{ error }

// fromRPC makes an Error of what gRPC gave, or of the end of the call's context where that is what lies behind it.
func fromRPC(ctx context.Context, err error, target string) error {
	reported := status.Convert(err)
	code := reported.Code()
	if ctx.Err() != nil && (code == codes.Canceled || code == codes.DeadlineExceeded) {
		return fromContext(ctx, target)
	}
	made := &Error{Code: code, Message: reported.Message()}
	for _, detail := range reported.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			if detail.GetDomain() == domain {
				made.Reason, made.Metadata = Reason(detail.GetReason()), detail.GetMetadata()
			}
		case *errdetails.RetryInfo:
			made.RetryAfter = detail.GetRetryDelay().AsDuration()
		}
	}
	if code == codes.DeadlineExceeded {
		made.cause = context.DeadlineExceeded
	}
	if made.Reason == "" {
		made.Message = inPlainWords(code, target, made.Message)
	}
	return made
}

// inPlainWords adds the way out where gRPC itself speaks, not the sidecar.
func inPlainWords(code codes.Code, target, message string) string {
	switch code {
	case codes.Unavailable:
		return fmt.Sprintf("no batch-llm sidecar answers at %s (%s): start one with `batch-llm-sidecar serve`, or give "+
			"the target of the one that runs", target, message)
	case codes.DeadlineExceeded:
		return target + " did not finish in time: allow more"
	case codes.Unimplemented:
		return target + " does not know this call: it is no batch-llm sidecar, or an older one"
	}
	if message == "" {
		return "no details given"
	}
	return message
}

// fromContext says why a call's context has ended.
func fromContext(ctx context.Context, target string) error {
	cause := context.Cause(ctx)
	var source sourceError
	switch {
	case errors.As(cause, &source):
		return source.error
	case errors.Is(cause, ErrClosed):
		return closed(target)
	case errors.Is(cause, errCancel):
		return &Error{Code: codes.Canceled, Message: fmt.Sprintf("the call to %s was cancelled", target)}
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return &Error{
			Code: codes.DeadlineExceeded, Message: inPlainWords(codes.DeadlineExceeded, target, ""), cause: ctx.Err(),
		}
	default:
		if !errors.Is(cause, ctx.Err()) {
			cause = errors.Join(ctx.Err(), cause)
		}
		return &Error{Code: codes.Canceled, Message: fmt.Sprintf("the call to %s: %v", target, cause), cause: cause}
	}
}

// closed says that the client of target is closed.
func closed(target string) error {
	return &Error{
		Code: codes.Canceled, Message: fmt.Sprintf("the client of %s is closed: make a new one", target), kind: ErrClosed,
	}
}

// unexpected says that the server breaks the protocol.
func unexpected(format string, arguments ...any) error {
	return &Error{Code: codes.OK, Message: fmt.Sprintf(format, arguments...)}
}
