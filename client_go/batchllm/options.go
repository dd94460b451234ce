package batchllm

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"time"

	batchllmv1 "github.com/batch-llm/batch-llm/client_go/batchllm/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
)

// DefaultTarget is where a sidecar listens unless it is told otherwise.
const DefaultTarget = "127.0.0.1:50051"

// ClientOption changes how [New] makes a client.
type ClientOption func(*clientOptions)

type clientOptions struct {
	timeout     time.Duration
	limits      limits
	policy      ResumePolicy
	clock       clock
	dialOptions []grpc.DialOption
}

func newClientOptions(options []ClientOption) (clientOptions, error) {
	made := clientOptions{
		timeout: time.Minute,
		limits: limits{
			frameItems:       64,
			frameBytes:       512 << 10,
			messageBytes:     16 << 20,
			unconfirmedItems: 4096,
			unconfirmedBytes: 32 << 20,
		},
		clock: systemClock(),
	}
	for _, option := range options {
		option(&made)
	}
	made.policy = made.policy.withDefaults()
	made.limits = made.limits.within(0)
	if made.timeout <= 0 {
		return made, fmt.Errorf("batchllm: WithTimeout must be above 0, not %v", made.timeout)
	}
	return made, made.limits.check()
}

// WithTimeout sets the deadline of a call whose context has none. Default one minute. Batches have none but their
// context's.
func WithTimeout(timeout time.Duration) ClientOption {
	return func(o *clientOptions) { o.timeout = timeout }
}

// WithMaxMessageBytes refuses larger items before they are sent. Default 16 MiB; the sidecar's limit holds as well.
func WithMaxMessageBytes(limit int) ClientOption {
	return func(o *clientOptions) { o.limits.messageBytes = limit }
}

// WithFrameLimits sets how many items a frame may have and, if it has more than one, how many bytes. Default 64 and
// 512 KiB.
func WithFrameLimits(items, bytes int) ClientOption {
	return func(o *clientOptions) { o.limits.frameItems, o.limits.frameBytes = items, bytes }
}

// WithUnconfirmedLimits sets how many items of a batch, and of how many bytes, are kept to be sent again until the
// sidecar has confirmed them; then its source is read on. Default 4,096 and 32 MiB, which one item may exceed.
func WithUnconfirmedLimits(items, bytes int) ClientOption {
	return func(o *clientOptions) { o.limits.unconfirmedItems, o.limits.unconfirmedBytes = items, bytes }
}

// WithResumePolicy sets how long batches, and calls with an idempotency key, go on trying when the connection breaks.
func WithResumePolicy(policy ResumePolicy) ClientOption {
	return func(o *clientOptions) { o.policy = policy }
}

// WithDialOptions adds to gRPC's options, e.g. interceptors, or credentials for a target that is not on this machine.
// The last one of a kind counts.
func WithDialOptions(options ...grpc.DialOption) ClientOption {
	return func(o *clientOptions) { o.dialOptions = append(o.dialOptions, options...) }
}

// BatchOption changes how a batch is made.
type BatchOption func(*batchOptions)

type batchOptions struct {
	opening        *batchllmv1.OpenBatch
	maxConcurrency int
	resume         bool
	onProgress     func(Progress)
}

func newBatchOptions(options []BatchOption) (batchOptions, error) {
	made := batchOptions{opening: &batchllmv1.OpenBatch{}, resume: true}
	for _, option := range options {
		option(&made)
	}
	if made.maxConcurrency > math.MaxInt32 || made.maxConcurrency < math.MinInt32 {
		return made, fmt.Errorf("batchllm: WithMaxConcurrency: %d has more than 32 bits", made.maxConcurrency)
	}
	made.opening.MaxConcurrency = int32(made.maxConcurrency)
	if made.opening.GetResumeAfterSequence() != 0 && made.opening.GetBatchId() == "" {
		return made, errors.New("batchllm: WithResumeAfter needs WithBatchID, of the batch to resume")
	}
	return made, nil
}

// WithStrategy names the strategy of items that name none.
func WithStrategy(name string) BatchOption {
	return func(o *batchOptions) { o.opening.Strategy = name }
}

// WithBatchID names the batch, with at most 256 bytes; without it the client makes a name, see [Batch.BatchID]. A batch
// that exists goes on; items sent again are recognised by id and content.
func WithBatchID(id string) BatchOption {
	return func(o *batchOptions) { o.opening.BatchId = id }
}

// WithMaxConcurrency allows at most so many of the batch's items in flight; 0: the strategies' own limits alone.
func WithMaxConcurrency(limit int) BatchOption {
	return func(o *batchOptions) { o.maxConcurrency = limit }
}

// WithResultOrder asks for an order of results. Without it: the order of the batch where it exists, else AsFinished.
func WithResultOrder(order ResultOrder) BatchOption {
	return func(o *batchOptions) { o.opening.ResultOrder = batchllmv1.ResultOrder(order) }
}

// WithLabels puts free text into the sidecar's logs; at most 32 entries of 256 bytes.
func WithLabels(labels map[string]string) BatchOption {
	return func(o *batchOptions) { o.opening.Labels = maps.Clone(labels) }
}

// WithResumeAfter says that results up to this sequence were received, of a batch that exists; those after it come
// again, Replayed. Without it all of them do.
func WithResumeAfter(sequence int64) BatchOption {
	return func(o *batchOptions) { o.opening.ResumeAfterSequence = sequence }
}

// WithDetach lets what the sidecar has accepted go on when this client goes away; see also [Batch.Leave].
func WithDetach() BatchOption {
	return func(o *batchOptions) { o.opening.Detach = true }
}

// WithoutResume ends the batch with the first connection that breaks.
func WithoutResume() BatchOption {
	return func(o *batchOptions) { o.resume = false }
}

// WithProgress has a function called with each report of the sidecar, by the goroutine that ranges over the results.
func WithProgress(report func(Progress)) BatchOption {
	return func(o *batchOptions) { o.onProgress = report }
}

// ItemOption changes how [Client.ProcessItem] runs an item.
type ItemOption func(*itemOptions)

type itemOptions struct {
	idempotencyKey string
}

// WithIdempotencyKey names the call, with at most 512 bytes. Made again with the same key and item, within the journal's
// retention, it gives the recorded result, Replayed; so a call whose connection broke is made again, as far as the
// client's [ResumePolicy] goes.
func WithIdempotencyKey(key string) ItemOption {
	return func(o *itemOptions) { o.idempotencyKey = key }
}

// CacheOption changes how a context cache is created or renewed.
type CacheOption func(*cacheOptions)

type cacheOptions struct {
	ttl *durationpb.Duration
}

func newCacheOptions(options []CacheOption) (made cacheOptions) {
	for _, option := range options {
		option(&made)
	}
	return made
}

// WithTTL sets how long a context cache lives, at least one second.
func WithTTL(ttl time.Duration) CacheOption {
	return func(o *cacheOptions) { o.ttl = durationpb.New(ttl) }
}
