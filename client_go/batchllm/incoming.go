package batchllm

import (
	"errors"
	"io"
	"sync/atomic"

	batchllmv1 "github.com/batch-llm/batch-llm/client_go/batchllm/v1"
)

// incoming is what the server has said of a batch so far, on all its streams. What is atomic may be looked at from any
// goroutine.
type incoming struct {
	opening    *batchllmv1.OpenBatch // what the batch was opened with first
	retries    *retries              // told of what is new
	onProgress func(Progress)

	opened       *Opened
	held         int64 // how many items the server was last known to hold
	newest       int64 // sequence of the last result that came
	lastSequence atomic.Int64
	progress     atomic.Pointer[Progress]
	totals       atomic.Pointer[Totals]
}

// take notes what a frame says and gives the results in it; a frame of a kind unknown here says nothing. An error: the
// server no longer holds what it had accepted, or breaks the protocol.
func (i *incoming) take(response *batchllmv1.ProcessBatchResponse, out *outgoing) ([]*batchllmv1.WorkItemResult, error) {
	switch frame := response.GetFrame().(type) {
	case *batchllmv1.ProcessBatchResponse_Results:
		results := frame.Results.GetResults()
		if count := len(results); count > 0 && results[count-1].GetSequence() > i.newest {
			i.newest = results[count-1].GetSequence()
			i.retries.progress()
		}
		return results, nil
	case *batchllmv1.ProcessBatchResponse_Accepted:
		if items := frame.Accepted.GetItems(); items > i.held {
			i.held = items
			i.retries.progress()
		}
		return nil, out.confirm(frame.Accepted.GetReceived())
	case *batchllmv1.ProcessBatchResponse_Opened:
		return nil, i.open(openedOf(frame.Opened))
	case *batchllmv1.ProcessBatchResponse_Progress:
		progress := progressOf(frame.Progress)
		i.progress.Store(progress)
		if i.onProgress != nil {
			i.onProgress(*progress)
		}
	case *batchllmv1.ProcessBatchResponse_BatchResult:
		if items := frame.BatchResult.GetTotalItems(); items > i.newest {
			return nil, unexpected("the server left out results: the batch has %d, the last one is %d", items, i.newest)
		}
		i.totals.Store(totalsOf(frame.BatchResult))
	}
	return nil, nil
}

func (i *incoming) open(opened *Opened) error {
	if i.opened != nil && (opened.Items < i.held || opened.LastSequence < i.lastSequence.Load()) {
		return i.lost()
	}
	i.opened = opened
	i.held = opened.Items
	i.retries.connected()
	return nil
}

// follow tells whether a result follows the last one that was handed out, and notes it; one that came before is passed
// over. An error: there is a gap.
func (i *incoming) follow(result *batchllmv1.WorkItemResult) (bool, error) {
	last, sequence := i.lastSequence.Load(), result.GetSequence()
	if sequence > last+1 {
		return false, unexpected("the server left out results: result %d follows %d", sequence, last)
	}
	if sequence <= last {
		return false, nil
	}
	i.lastSequence.Store(sequence)
	return true, nil
}

// end holds the server to its word when it ends the stream with OK: io.EOF, or what is missing.
func (i *incoming) end() error {
	switch {
	case i.opened == nil:
		return unexpected("the server ended the stream without `opened`")
	case i.totals.Load() == nil:
		return unexpected("the server ended the stream without `batch_result`")
	}
	return io.EOF
}

// explain says what it means when a server that knew the batch refuses to go on after the last result.
func (i *incoming) explain(failure error) error {
	var err *Error
	if i.opened != nil && errors.As(failure, &err) && err.Metadata["field"] == "resume_after_sequence" {
		return i.lost()
	}
	return failure
}

func (i *incoming) lost() error {
	return &BatchLostError{
		BatchID: i.opening.GetBatchId(), Held: i.held, LastSequence: i.lastSequence.Load(), Durable: i.opened.Durable,
	}
}
