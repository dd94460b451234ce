package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"

	"github.com/batch-llm/batch-llm/client_go/batchllm"
	batchllmv1 "github.com/batch-llm/batch-llm/client_go/batchllm/v1"
)

// policy is a ResumePolicy, of which 0 is none.
type policy struct {
	MaxTries       *int     `json:"max_tries"`
	MaxAway        *float64 `json:"max_away_seconds"`
	MaxAsked       *float64 `json:"max_asked_seconds"`
	InitialBackoff *float64 `json:"initial_backoff_seconds"`
	MaxBackoff     *float64 `json:"max_backoff_seconds"`
}

func (p policy) made() (made batchllm.ResumePolicy) {
	if p.MaxTries != nil {
		made.MaxTries = orNone(*p.MaxTries)
	}
	if p.MaxAway != nil {
		made.MaxAway = orNone(seconds(*p.MaxAway))
	}
	if p.MaxAsked != nil {
		made.MaxAsked = orNone(seconds(*p.MaxAsked))
	}
	if p.InitialBackoff != nil {
		made.InitialBackoff = orNone(seconds(*p.InitialBackoff))
	}
	if p.MaxBackoff != nil {
		made.MaxBackoff = orNone(seconds(*p.MaxBackoff))
	}
	return made
}

func orNone[T ~int | ~int64](value T) T {
	if value == 0 {
		return -1
	}
	return value
}

// source gives items as they are told, and counts them.
type source struct {
	mu      sync.Mutex
	changed *sync.Cond
	items   []batchllm.WorkItem
	taken   int
	ended   bool
}

func newSource(items []batchllm.WorkItem, more bool) *source {
	made := &source{items: items, ended: !more}
	made.changed = sync.NewCond(&made.mu)
	return made
}

func (s *source) all(yield func(batchllm.WorkItem) bool) {
	for {
		item, more := s.next()
		if !more || !yield(item) {
			return
		}
	}
}

func (s *source) next() (batchllm.WorkItem, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.taken == len(s.items) && !s.ended {
		s.changed.Wait()
	}
	if s.taken == len(s.items) {
		return batchllm.WorkItem{}, false
	}
	s.taken++
	return s.items[s.taken-1], true
}

func (s *source) change(items []batchllm.WorkItem, ended bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.items = append(s.items, items...)
	s.ended = s.ended || ended
	s.changed.Broadcast()
}

func (s *source) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taken
}

// batch is one in flight; what waits for the sidecar takes turns.
type batch struct {
	*batchllm.Batch
	source  *source
	release context.CancelFunc
	turn    sync.Mutex
	next    func() (*batchllm.Result, error, bool)
}

// clientAdapter drives the client as its users do.
type clientAdapter struct {
	clients kept[*batchllm.Client]
	batches kept[*batch]
}

func newClientAdapter() *clientAdapter { return &clientAdapter{} }

func (*clientAdapter) hello() answer { return answer{"name": "go", "sets": []string{"client"}} }

func (*clientAdapter) explain(err error) answer {
	var failure *batchllm.Error
	var own fault
	switch {
	case errors.As(err, &own):
		return nil
	case !errors.As(err, &failure):
		return answer{"code": "REFUSED", "message": err.Error()}
	}
	said := answer{"code": codeNames[failure.Code], "message": failure.Message}
	if failure.Metadata != nil {
		said["metadata"] = failure.Metadata
	}
	if failure.Reason != "" {
		said["reason"] = failure.Reason
	}
	if failure.RetryAfter > 0 {
		said["retry_after"] = failure.RetryAfter.Seconds()
	}
	var large *batchllm.MessageTooLargeError
	if errors.As(err, &large) {
		said["item_id"], said["size"], said["limit"] = large.ItemID, large.Size, large.Limit
	}
	return said
}

func (c *clientAdapter) do(told command) (answer, error) {
	switch told.Do {
	case "connect":
		var options []batchllm.ClientOption
		if told.ResumePolicy != nil {
			options = append(options, batchllm.WithResumePolicy(told.ResumePolicy.made()))
		}
		client, err := batchllm.New(told.Target, options...)
		if err != nil {
			return nil, err
		}
		c.clients.put(told.Client, client)
		return nil, nil
	case "close", "call", "batch.start", "batch.resume":
		client, err := c.clients.get(told.Client)
		if err != nil {
			return nil, err
		}
		switch told.Do {
		case "close":
			return nil, client.Close()
		case "call":
			return callClient(client, told)
		}
		return nil, c.start(client, told)
	}
	batch, err := c.batches.get(told.Batch)
	if err != nil {
		return nil, err
	}
	return batch.do(told)
}

func (c *clientAdapter) start(client *batchllm.Client, told command) error {
	items, err := workItems(told.Items)
	if err != nil {
		return err
	}
	ctx, release := context.WithCancel(context.Background())
	if told.Timeout != nil {
		ctx, release = context.WithTimeout(context.Background(), seconds(*told.Timeout))
	}
	made := &batch{source: newSource(items, told.More), release: release}
	if told.Do == "batch.resume" {
		made.Batch, err = client.ResumeBatch(ctx, told.BatchID, batchllm.WithResumeAfter(told.After))
		if err != nil {
			release()
			return err
		}
	} else {
		options, err := batchOptions(told)
		if err != nil {
			release()
			return err
		}
		made.Batch = client.ProcessBatch(ctx, made.source.all, options...)
	}
	made.next, _ = iter.Pull2(made.Results())
	c.batches.put(told.Batch, made)
	return nil
}

func batchOptions(told command) ([]batchllm.BatchOption, error) {
	open, err := read(told.Open, &batchllmv1.OpenBatch{})
	if err != nil {
		return nil, err
	}
	options := []batchllm.BatchOption{
		batchllm.WithStrategy(open.GetStrategy()),
		batchllm.WithBatchID(open.GetBatchId()),
		batchllm.WithMaxConcurrency(int(open.GetMaxConcurrency())),
		batchllm.WithResultOrder(batchllm.ResultOrder(open.GetResultOrder())),
		batchllm.WithLabels(open.GetLabels()),
		batchllm.WithResumeAfter(open.GetResumeAfterSequence()),
	}
	if open.GetDetach() {
		options = append(options, batchllm.WithDetach())
	}
	if told.Resume != nil && !*told.Resume {
		options = append(options, batchllm.WithoutResume())
	}
	return options, nil
}

func (b *batch) do(told command) (answer, error) {
	switch told.Do {
	case "batch.add":
		items, err := workItems(told.Items)
		b.source.change(items, false)
		return nil, err
	case "batch.end":
		b.source.change(nil, true)
		return nil, nil
	case "batch.status":
		said := answer{"batch_id": b.BatchID(), "last_sequence": b.LastSequence(), "taken": b.source.count()}
		if progress := b.Progress(); progress != nil {
			said["progress"] = shown{progressMessage(progress)}
		}
		return said, nil
	case "batch.cancel":
		b.Cancel()
		return nil, nil
	}
	b.turn.Lock()
	defer b.turn.Unlock()
	switch told.Do {
	case "batch.opened":
		opened, err := b.Opened()
		if err != nil {
			return nil, err
		}
		return answer{"opened": shown{openedMessage(opened)}}, nil
	case "batch.next":
		return b.results(told.Count)
	case "batch.leave":
		held, err := b.Leave()
		if err != nil {
			return nil, err
		}
		return answer{"items": held}, nil
	}
	return nil, fault{fmt.Errorf("unknown command %q", told.Do)}
}

// results reads so many, or all to the end.
func (b *batch) results(count *int) (answer, error) {
	results := []shown{}
	said := func() answer { return answer{"results": results} }
	for count == nil || len(results) < *count {
		result, err, more := b.next()
		if err != nil || !more {
			b.release()
		}
		if err != nil {
			return said(), err
		}
		if !more {
			all := said()
			if totals := b.Totals(); totals != nil {
				all["totals"] = shown{totalsMessage(totals)}
			}
			return all, nil
		}
		results = append(results, shown{resultMessage(result)})
	}
	return said(), nil
}
