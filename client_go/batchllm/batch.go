package batchllm

import (
	"context"
	"errors"
	"io"
	"iter"
	"sync"
	"time"

	batchllmv1 "github.com/batch-llm/batch-llm/client_go/batchllm/v1"
	"google.golang.org/protobuf/proto"
)

// sealPoll is how long [Batch.Leave] waits between two looks at whether the sidecar has noticed the half-close.
const sealPoll = 20 * time.Millisecond

// Batch gives results as they come. Range over [Batch.Results] from one goroutine; Cancel and what is only looked at
// (BatchID, LastSequence, Progress, Totals) may be used from any.
//
// Nothing is sent before Results, Opened or Leave is used. From then on the batch has a stream and goroutines until
// Results has ended, Cancel or Leave was called, or its context has ended.
//
// Once it has opened, a connection that breaks or a sidecar that restarts is ridden out: the batch is opened again,
// items that the sidecar had not confirmed are sent again, and results go on after the last one handed out, without a
// gap or a repeat.
type Batch struct {
	client  *Client
	source  iter.Seq2[WorkItem, error]
	opening *batchllmv1.OpenBatch
	out     *outgoing
	in      *incoming
	retries *retries

	mu        sync.Mutex // guards what Cancel needs
	ctx       context.Context
	cancel    context.CancelCauseFunc
	cancelled bool

	stream      stream
	closeStream func()
	flowing     bool // items flow on the present stream
	reading     bool
	ready       []*batchllmv1.WorkItemResult
	failure     error // how the batch ended; io.EOF: well
}

// Results gives the results in the order that was asked for, each once, while the batch goes on. A pair with an error
// is the last one: an [*Error] when the stream fails and cannot be resumed, what the source of the items gave when that
// fails.
//
// Leaving the loop early cancels the stream, see [Batch.Cancel]. Nothing is read from the sidecar, beyond what fits the
// connection, unless the loop asks for it.
func (b *Batch) Results() iter.Seq2[*Result, error] {
	return func(yield func(*Result, error) bool) {
		defer b.finish()
		for {
			for len(b.ready) > 0 {
				message := b.ready[0]
				b.ready = b.ready[1:]
				follows, err := b.in.follow(message)
				if err != nil {
					b.ready = nil
					yield(nil, b.fail(err))
					return
				}
				if follows && !yield(resultOf(message), nil) {
					return
				}
			}
			var err error
			if b.ready, err = b.receive(); err != nil {
				if err != io.EOF {
					yield(nil, err)
				}
				return
			}
		}
	}
}

// Opened waits for the sidecar's answer: what is in force. An error: it refused. Call [Batch.Cancel] if you do not go on
// to range over the results.
func (b *Batch) Opened() (*Opened, error) {
	for b.in.opened == nil {
		results, err := b.receive()
		if err != nil {
			return nil, err
		}
		b.ready = append(b.ready, results...)
	}
	return b.in.opened, nil
}

// BatchID is yours, or the one that this client made. Known from the start.
func (b *Batch) BatchID() string { return b.opening.GetBatchId() }

// LastSequence is that of the last result handed out: what to give to [WithResumeAfter].
func (b *Batch) LastSequence() int64 { return b.in.lastSequence.Load() }

// Progress is the sidecar's latest report; nil before the first.
func (b *Batch) Progress() *Progress { return b.in.progress.Load() }

// Totals of the batch; nil before it has ended.
func (b *Batch) Totals() *Totals { return b.in.totals.Load() }

// Leave waits until the sidecar holds all items and knows that these are all, then ends the stream. The batch, which
// must have been made with [WithDetach], goes on by itself. Results that were not handed out yet are passed over:
// [Client.ResumeBatch] gives them again. It says how many items of the batch the sidecar holds.
func (b *Batch) Leave() (int64, error) {
	if !b.opening.GetDetach() {
		return 0, errors.New("batchllm: only a batch made WithDetach goes on by itself")
	}
	defer b.finish()
	for b.failure != io.EOF {
		sealed, err := b.isSealed()
		if sealed {
			break
		}
		if err == nil {
			_, err = b.receive()
		}
		if err != nil && err != io.EOF {
			return b.in.held, b.fail(err)
		}
	}
	return b.in.held, nil
}

// Cancel cancels the stream; ranging over the results then ends with ErrCanceled. No effect after the end.
//
// The sidecar keeps the batch: items under way finish, others wait until the batch is opened again. To end the batch
// itself, see [Client.CancelBatch].
func (b *Batch) Cancel() {
	b.mu.Lock()
	b.cancelled = true
	if b.cancel != nil {
		b.cancel(errCancel)
	}
	b.mu.Unlock()
	b.out.stop()
}

// isSealed waits until the sidecar has noticed the half-close, if all items are there; false: not yet, or the connection
// broke, as receiving will tell.
func (b *Batch) isSealed() (bool, error) {
	for b.out.settled() {
		info, err := b.client.GetBatch(b.ctx, b.BatchID())
		if err != nil {
			var failure *Error
			if b.ctx.Err() == nil && errors.As(err, &failure) && isResumable(failure) {
				return false, nil
			}
			return false, err
		}
		if info.GetState() != batchllmv1.BatchState_BATCH_STATE_OPEN {
			return true, nil
		}
		if err := b.retries.clock.wait(b.ctx, sealPoll); err != nil {
			return false, fromContext(b.ctx, b.client.target)
		}
	}
	return false, nil
}

// receive gives the results of the next frame that has come, none for frames that have none. io.EOF: the batch has
// ended; any other error: it has failed.
func (b *Batch) receive() ([]*batchllmv1.WorkItemResult, error) {
	if b.failure != nil {
		return nil, b.failure
	}
	b.begin()
	frame, err := b.nextFrame()
	if err != nil {
		return nil, b.fail(err)
	}
	results, err := b.in.take(frame, b.out)
	if err != nil {
		return nil, b.fail(err)
	}
	if frame.GetOpened() != nil && !b.flowing {
		b.flow(frame.GetOpened().GetMaxMessageBytes())
	}
	return results, nil
}

// fail ends the batch.
func (b *Batch) fail(err error) error {
	b.failure = err
	b.finish()
	return err
}

// finish ends what runs for the batch, except for a source that blocks.
func (b *Batch) finish() {
	b.Cancel()
	b.endStream()
}

// begin makes the batch's context when it is used first.
func (b *Batch) begin() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cancel == nil {
		b.ctx, b.cancel = b.client.during(b.ctx)
		context.AfterFunc(b.ctx, b.out.stop) // who sends and who reads the source wait for no context
		if b.cancelled {
			b.cancel(errCancel)
		}
	}
}

// nextFrame gives the next frame, from a new stream where there is none, or the present one breaks and that can be
// ridden out. io.EOF: the batch has ended.
func (b *Batch) nextFrame() (*batchllmv1.ProcessBatchResponse, error) {
	for {
		frame, err := b.frame()
		switch {
		case err == nil:
			return frame, nil
		case err == io.EOF:
			return nil, b.in.end()
		}
		b.endStream()
		if b.in.totals.Load() != nil {
			return nil, io.EOF
		}
		failure := b.client.failure(b.ctx, err)
		if b.ctx.Err() != nil {
			return nil, fromContext(b.ctx, b.client.target)
		}
		if b.in.opened == nil {
			return nil, failure
		}
		delay, err := b.retries.delay(b.in.explain(failure))
		if err != nil {
			return nil, err
		}
		if err := b.retries.clock.wait(b.ctx, delay); err != nil {
			return nil, fromContext(b.ctx, b.client.target)
		}
	}
}

// frame gives the present stream's next frame; without a stream it opens one. The error is gRPC's.
func (b *Batch) frame() (*batchllmv1.ProcessBatchResponse, error) {
	if b.stream == nil {
		ctx, cancel := context.WithCancel(b.ctx)
		opened, err := b.client.batches.ProcessBatch(ctx)
		if err != nil {
			cancel()
			return nil, err
		}
		b.stream, b.closeStream = opened, cancel
		opening := proto.CloneOf(b.opening)
		opening.ResumeAfterSequence = b.LastSequence()
		// An error here is io.EOF, and receiving tells how the stream ended.
		_ = opened.Send(&batchllmv1.ProcessBatchRequest{Frame: &batchllmv1.ProcessBatchRequest_Open{Open: opening}})
	}
	return b.stream.Recv()
}

// flow lets items flow on the present stream, which has opened.
func (b *Batch) flow(serverBytes int64) {
	b.flowing = true
	go b.out.send(b.stream, b.out.begin(serverBytes))
	if !b.reading {
		b.reading = true
		go func() {
			if err := b.out.pump(b.source); err != nil {
				b.cancel(sourceError{err})
				b.out.stop()
			}
		}()
	}
}

// endStream ends the present stream, if there is one.
func (b *Batch) endStream() {
	if b.stream != nil {
		b.closeStream()
		b.out.end()
		b.stream, b.flowing = nil, false
	}
}
