package batchllm

import (
	"iter"
	"sync"

	batchllmv1 "github.com/batch-llm/batch-llm/client_go/batchllm/v1"
	"google.golang.org/grpc"
)

type stream = grpc.BidiStreamingClient[batchllmv1.ProcessBatchRequest, batchllmv1.ProcessBatchResponse]

// outgoing sends a batch's items, on one stream after the other.
//
// One goroutine reads the source, since that may block between items: what is at hand goes out meanwhile, by another
// one. The window's bounds stop the reading when sending stalls.
type outgoing struct {
	mu      sync.Mutex
	changed *sync.Cond
	window  window
	streams int  // begun so far: the present one's number
	read    bool // the source has ended
	over    bool // nothing more is to be sent: the batch has ended, was cancelled, or its source failed
}

func newOutgoing(limits limits) *outgoing {
	out := &outgoing{window: window{limits: limits}}
	out.changed = sync.NewCond(&out.mu)
	return out
}

// pump reads the source to its end, or until the batch is over. An error: the source failed.
func (o *outgoing) pump(source iter.Seq2[WorkItem, error]) error {
	for item, err := range source {
		if err != nil {
			return err
		}
		added, err := encode(item)
		if err != nil {
			return err
		}
		if going, err := o.add(added); !going {
			return err
		}
	}
	o.change(func() { o.read = true })
	return nil
}

// add puts an item into the window when there is room; false: the batch is over, or the item is too large.
func (o *outgoing) add(added entry) (bool, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := added.check(o.window.limits); err != nil {
		return false, err
	}
	for !o.over && !o.window.fits(added) {
		o.changed.Wait()
	}
	if o.over {
		return false, nil
	}
	o.window.add(added)
	if o.window.waiting() == 1 {
		o.changed.Broadcast()
	}
	return true, nil
}

// begin lets items flow on a new stream, within the server's message limit: first what is not confirmed, then what
// follows. It gives the stream's number.
func (o *outgoing) begin(serverBytes int64) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.window.limits = o.window.limits.within(serverBytes)
	o.window.rewind()
	o.streams++
	return o.streams
}

// send sends a stream's frames. The end of what it sends is a half-close, which tells the server that all is well: so
// there is none after a source that failed, or was not read to its end.
func (o *outgoing) send(on stream, number int) {
	for {
		frame, complete := o.next(number)
		if complete {
			_ = on.CloseSend() // never fails; whoever receives is told how the stream ends
			return
		}
		if frame == nil || on.Send(frame) != nil {
			return
		}
	}
}

// next waits for a stream's next frame; nil: it has none any more, because all was sent if complete.
func (o *outgoing) next(number int) (frame *batchllmv1.ProcessBatchRequest, complete bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for {
		switch {
		case o.over || o.streams != number:
			return nil, false
		case o.window.waiting() > 0:
			frame := o.window.take()
			o.changed.Broadcast()
			return frame, false
		case o.read:
			return nil, true
		}
		o.changed.Wait()
	}
}

// confirm lets go of the first so many items of the present stream.
func (o *outgoing) confirm(received int64) (err error) {
	o.change(func() { err = o.window.confirm(received) })
	return err
}

// settled tells whether the source has ended and the server holds all of it.
func (o *outgoing) settled() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.read && len(o.window.entries) == 0
}

// end ends what the present stream sends; the batch may go on with another.
func (o *outgoing) end() { o.change(func() { o.streams++ }) }

// stop ends the reading, as soon as it comes back from the source.
func (o *outgoing) stop() { o.change(func() { o.over = true }) }

func (o *outgoing) change(state func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	state()
	o.changed.Broadcast()
}
