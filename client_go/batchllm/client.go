package batchllm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	batchllmv1 "github.com/batch-llm/batch-llm/client_go/batchllm/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/proto"
)

// keepalivePause: a network that is gone without a reset would leave a batch waiting for ever. The sidecar allows these
// pings; see https://github.com/grpc/grpc/blob/master/doc/keepalive.md.
const keepalivePause = 10 * time.Second

// Client has one connection to a sidecar. It may be used by many goroutines at once.
//
// Every method that talks to the sidecar fails with an [*Error]. A call whose context has no deadline gets the client's
// timeout, one minute unless [WithTimeout] says otherwise.
type Client struct {
	target     string
	options    clientOptions
	conn       *grpc.ClientConn
	batches    batchllmv1.BatchServiceClient
	strategies batchllmv1.StrategyServiceClient
	caches     batchllmv1.CacheLifecycleServiceClient
	open       context.Context // ends when the client is closed
	close      func() error
}

// New makes a client of the sidecar at target, an address as gRPC takes it: host:port, or unix:/run/batch-llm.sock. It
// connects when it is first used. An error: the target or an option cannot be used.
func New(target string, options ...ClientOption) (*Client, error) {
	if err := checkTarget(target); err != nil {
		return nil, err
	}
	set, err := newClientOptions(options)
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient(target, append(dialOptions(set.limits.messageBytes), set.dialOptions...)...)
	if err != nil {
		return nil, fmt.Errorf("batchllm: the target %q cannot be used: %w", target, err)
	}
	open, end := context.WithCancel(context.Background())
	return &Client{
		target:     target,
		options:    set,
		conn:       conn,
		batches:    batchllmv1.NewBatchServiceClient(conn),
		strategies: batchllmv1.NewStrategyServiceClient(conn),
		caches:     batchllmv1.NewCacheLifecycleServiceClient(conn),
		open:       open,
		close: sync.OnceValue(func() error {
			end()
			return conn.Close()
		}),
	}, nil
}

// checkTarget refuses what can be no target; gRPC says so with the first call only, as if nobody answered.
func checkTarget(target string) error {
	const give = "give host:port or unix:PATH, e.g. " + DefaultTarget
	switch target {
	case "":
		return errors.New("batchllm: the target must not be empty: " + give)
	case "unix:", "unix://":
		return fmt.Errorf("batchllm: the target must have a path after %q: %s", target, give)
	}
	port := target[strings.LastIndexByte(target, ':')+1:]
	if strings.HasPrefix(target, "unix:") || strings.HasPrefix(target, "unix-abstract:") || port == target {
		return nil
	}
	if _, err := strconv.ParseUint(port, 10, 16); errors.Is(err, strconv.ErrRange) {
		return fmt.Errorf("batchllm: the target's port must be at most 65535, not %s (%s)", port, target)
	}
	return nil
}

func dialOptions(messageBytes int) []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallSendMsgSize(messageBytes),
			grpc.MaxCallRecvMsgSize(math.MaxInt32),
		),
		// A sidecar is beside its service: a company's proxy must not come between, nor a look-up of settings in the DNS.
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		// gRPC's own pause between attempts to connect grows to 120 s; ours are in ResumePolicy.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 20 * time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepalivePause, Timeout: keepalivePause}),
	}
}

// Close closes the connection; what is in flight is cancelled. Closing twice is no error.
func (c *Client) Close() error { return c.close() }

// WaitUntilReady waits until the sidecar can be reached. ErrUnavailable: it cannot in time.
func (c *Client) WaitUntilReady(ctx context.Context) error {
	ctx, cancel := c.call(ctx)
	defer cancel(nil)
	for {
		state := c.conn.GetState()
		if state == connectivity.Ready {
			return nil
		}
		c.conn.Connect()
		if !c.conn.WaitForStateChange(ctx, state) {
			break
		}
	}
	failure := fromContext(ctx, c.target)
	if errors.Is(failure, ErrDeadlineExceeded) {
		return &Error{
			Code: codes.Unavailable, Message: inPlainWords(codes.Unavailable, c.target, "waited in vain"), cause: failure,
		}
	}
	return failure
}

// ProcessBatch makes a batch of items; range over its [Batch.Results]. For a slice: slices.Values(items).
//
// Another goroutine reads the items, as the sidecar takes them. A source may block between items: what it gave before
// is sent meanwhile. One that can block for good should end when ctx does, else that goroutine cannot end. What an
// item's Context holds must not change before its result has come. The context's deadline is that of the whole batch, broken connections included.
func (c *Client) ProcessBatch(ctx context.Context, items iter.Seq[WorkItem], options ...BatchOption) *Batch {
	return c.ProcessBatchFrom(ctx, func(yield func(WorkItem, error) bool) {
		for item := range items {
			if !yield(item, nil) {
				return
			}
		}
	}, options...)
}

// ProcessBatchFrom is [Client.ProcessBatch] with items from a source that can fail, such as a file. Its first error ends
// the batch: the results end with that very error, and the sidecar keeps what it has accepted.
func (c *Client) ProcessBatchFrom(
	ctx context.Context, items iter.Seq2[WorkItem, error], options ...BatchOption,
) *Batch {
	set, failure := newBatchOptions(options)
	if set.opening.GetBatchId() == "" { // without an id of our own it could not be resumed
		set.opening.BatchId = "batch-" + rand.Text()
	}
	if _, err := proto.Marshal(set.opening); failure == nil && err != nil {
		failure = fmt.Errorf("batchllm: the batch's id, strategy or labels: %w", err)
	}
	retries := c.retries(ctx, set.resume)
	batch := &Batch{
		client:  c,
		source:  items,
		opening: set.opening,
		out:     newOutgoing(c.options.limits),
		in: &incoming{
			opening: set.opening, retries: retries, onProgress: set.onProgress, newest: set.opening.GetResumeAfterSequence(),
		},
		retries: retries,
		ctx:     ctx,
		failure: failure,
	}
	batch.in.newest = set.opening.GetResumeAfterSequence()
	batch.in.lastSequence.Store(batch.in.newest)
	return batch
}

// ResumeBatch takes up a batch that exists, with no further items: its results after [WithResumeAfter], to its end. What
// the sidecar holds is all there is of the batch from then on. To send items that it does not hold yet, use ProcessBatch
// with [WithBatchID]. ErrBatchNotFound: there is none.
func (c *Client) ResumeBatch(ctx context.Context, batchID string, options ...BatchOption) (*Batch, error) {
	info, err := c.GetBatch(ctx, batchID) // opening one that is not there would make it
	if err != nil {
		return nil, err
	}
	options = append(options, WithBatchID(batchID))
	if info.GetDetach() {
		options = append(options, WithDetach())
	}
	return c.ProcessBatch(ctx, func(func(WorkItem) bool) {}, options...), nil
}

// ProcessItem runs one item, which must name its strategy; a failed item is a result too. The context's deadline, or the
// client's timeout, holds for all tries. ErrMessageTooLarge: it was not sent. ErrIdempotencyConflict: the key was used
// for another item.
func (c *Client) ProcessItem(ctx context.Context, item WorkItem, options ...ItemOption) (*Result, error) {
	var set itemOptions
	for _, option := range options {
		option(&set)
	}
	if !utf8.ValidString(set.idempotencyKey) {
		return nil, fmt.Errorf("batchllm: the idempotency key %q is not valid UTF-8", set.idempotencyKey)
	}
	encoded, err := encode(item)
	if err != nil {
		return nil, err
	}
	if err := encoded.check(c.options.limits); err != nil {
		return nil, err
	}
	request := &batchllmv1.ProcessItemRequest{Item: encoded.item, IdempotencyKey: set.idempotencyKey}
	ctx, cancel := c.call(ctx)
	defer cancel(nil)
	retries := c.retries(ctx, set.idempotencyKey != "")
	for {
		response, failure := call(ctx, c, c.batches.ProcessItem, request)
		if failure == nil {
			return resultOf(response.GetResult()), nil
		}
		delay, err := retries.delay(failure)
		if err != nil {
			return nil, err
		}
		if err := c.options.clock.wait(ctx, delay); err != nil {
			return nil, fromContext(ctx, c.target)
		}
	}
}

func (c *Client) retries(ctx context.Context, resume bool) *retries {
	made := &retries{clock: c.options.clock}
	if resume {
		made.policy = &c.options.policy
	}
	made.deadline, _ = ctx.Deadline()
	return made
}

// during gives a context that ends with the client as well.
func (c *Client) during(ctx context.Context) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(c.open, func() { cancel(ErrClosed) })
	return ctx, func(cause error) {
		stop()
		cancel(cause)
	}
}

// call gives the context of one call, with a deadline.
func (c *Client) call(ctx context.Context) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := c.during(ctx)
	if _, set := ctx.Deadline(); set {
		return ctx, cancel
	}
	ctx, expire := context.WithTimeout(ctx, c.options.timeout)
	return ctx, func(cause error) {
		cancel(cause)
		expire()
	}
}

// call makes one call.
func call[Request, Response any](
	ctx context.Context,
	c *Client,
	method func(context.Context, Request, ...grpc.CallOption) (Response, error),
	request Request,
) (Response, error) {
	ctx, cancel := c.call(ctx)
	defer cancel(nil)
	response, err := method(ctx, request)
	if err != nil {
		var none Response
		return none, c.failure(ctx, err)
	}
	return response, nil
}

// failure makes an Error of what gRPC gave.
func (c *Client) failure(ctx context.Context, err error) error {
	if c.open.Err() != nil {
		return closed(c.target)
	}
	return fromRPC(ctx, err, c.target)
}
