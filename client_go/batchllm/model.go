package batchllm

import (
	"fmt"
	"time"
	"unicode/utf8"

	batchllmv1 "github.com/batch-llm/batch-llm/client_go/batchllm/v1"
	"google.golang.org/protobuf/types/known/durationpb"
)

// What the sidecar keeps and what it has cost, as in the protocol; every field is documented there.
type (
	// BatchInfo is a batch as the sidecar's journal knows it.
	BatchInfo = batchllmv1.BatchInfo
	// Cache is a context cache.
	Cache = batchllmv1.Cache
	// Receipt has tokens by kind and what they cost, in nano-dollars.
	Receipt = batchllmv1.Receipt
	// Strategy is a strategy and where it comes from.
	Strategy = batchllmv1.Strategy
	// StrategySpec is how items are turned into calls.
	StrategySpec = batchllmv1.StrategySpec
)

// WorkItem is one piece of work. The sidecar checks it: a bad item ends in a result with ReasonInvalidItem, and others
// go on.
type WorkItem struct {
	// ItemID is your name for it, unique in its batch; 1 to 512 bytes, not blank.
	ItemID string
	// Prompt is what the model is asked, not empty.
	Prompt string
	// Strategy names the one that runs it; empty: the batch's.
	Strategy string
	// Context is opaque and comes back with the result.
	Context []byte
	// Timeout limits its whole time in the sidecar, waiting and retries included; 0: no limit.
	Timeout time.Duration
}

// message gives the protobuf message; an error: a text is no UTF-8, which protobuf cannot hold.
func (i WorkItem) message() (*batchllmv1.WorkItem, error) {
	for _, field := range [...]struct{ name, text string }{
		{"ItemID", i.ItemID}, {"Prompt", i.Prompt}, {"Strategy", i.Strategy},
	} {
		if !utf8.ValidString(field.text) {
			return nil, fmt.Errorf("batchllm: item %q: %s must be valid UTF-8", i.ItemID, field.name)
		}
	}
	message := &batchllmv1.WorkItem{ItemId: i.ItemID, Prompt: i.Prompt, Strategy: i.Strategy, Context: i.Context}
	if i.Timeout != 0 {
		message.Timeout = durationpb.New(i.Timeout)
	}
	return message, nil
}

// ResultOrder is the order in which results come.
type ResultOrder int

const (
	// AsFinished gives results as items finish.
	AsFinished = ResultOrder(batchllmv1.ResultOrder_RESULT_ORDER_COMPLETION)
	// AsSubmitted gives results as items were sent; they wait for those before them.
	AsSubmitted = ResultOrder(batchllmv1.ResultOrder_RESULT_ORDER_SUBMISSION)
)

// String names it as the protocol does.
func (o ResultOrder) String() string { return batchllmv1.ResultOrder(o).String() }

// Usage counts tokens as the provider did, summed over an item's attempts.
type Usage struct {
	// InputTokens are the prompt's, cached ones included.
	InputTokens int64
	// OutputTokens were generated, thinking included.
	OutputTokens int64
	// TotalTokens is what the provider reports.
	TotalTokens int64
	// CachedInputTokens were read from a context cache; part of InputTokens.
	CachedInputTokens int64
	// ThinkingTokens are part of OutputTokens.
	ThinkingTokens int64
	// EffectiveInputTokens are weighted by price: input minus cached times the model's discount, rounded up.
	EffectiveInputTokens int64
}

// ItemFailure says why an item has no output. It is no error: the batch goes on.
type ItemFailure struct {
	// Reason is what to branch on, e.g. ReasonRateLimited.
	Reason Reason
	// Message is for people: what happened and the way out.
	Message string
	// Retryable tells whether sending the item again later may succeed.
	Retryable bool
	// RetryAfter is how long the provider asked to wait; 0 when it did not say.
	RetryAfter time.Duration
	// Metadata has the facts behind the reason.
	Metadata map[string]string
}

// Result is the one terminal result of an item.
type Result struct {
	// ItemID is the item's, as it was sent.
	ItemID string
	// Text is the model's answer; empty when the item failed.
	Text string
	// FinishReason is why the model stopped, in the provider's word.
	FinishReason string
	// SafetyRatings has category to rating, where the provider rates.
	SafetyRatings map[string]string
	// Failure says why there is no output; nil when there is one.
	Failure *ItemFailure
	// Usage counts the tokens of all attempts, failed ones included.
	Usage Usage
	// Receipt has tokens by kind and what they cost; nil where it would say no more than Usage: at most one attempt, of
	// a strategy that has no prices.
	Receipt *Receipt
	// Attempts is how many calls were made; 0 when the item never reached its provider.
	Attempts int
	// Elapsed is the time from acceptance to result.
	Elapsed time.Duration
	// Strategy names the one that ran it.
	Strategy string
	// Model answered; empty when none did.
	Model string
	// Context is the item's, untouched.
	Context []byte
	// SubmissionIndex is the item's place in the batch, from 0.
	SubmissionIndex int64
	// Sequence is the result's place in the batch, from 1, without gaps.
	Sequence int64
	// Replayed: it was recorded before and is sent again, by a batch resumed or for an idempotency key.
	Replayed bool
	// MaybeBilled: the item may have been with its provider when a sidecar died, so that it may be billed twice.
	MaybeBilled bool
}

// OK tells whether there is an output.
func (r *Result) OK() bool { return r.Failure == nil }

func resultOf(message *batchllmv1.WorkItemResult) *Result {
	usage := message.GetUsage()
	result := &Result{
		ItemID:        message.GetItemId(),
		Text:          message.GetOutput().GetText(),
		FinishReason:  message.GetOutput().GetFinishReason(),
		SafetyRatings: message.GetOutput().GetSafetyRatings(),
		Usage: Usage{
			InputTokens:          usage.GetInputTokens(),
			OutputTokens:         usage.GetOutputTokens(),
			TotalTokens:          usage.GetTotalTokens(),
			CachedInputTokens:    usage.GetCachedInputTokens(),
			ThinkingTokens:       usage.GetThinkingTokens(),
			EffectiveInputTokens: usage.GetEffectiveInputTokens(),
		},
		Receipt:         message.GetReceipt(),
		Attempts:        int(message.GetAttempts()),
		Elapsed:         message.GetElapsed().AsDuration(),
		Strategy:        message.GetStrategy(),
		Model:           message.GetModel(),
		Context:         message.GetContext(),
		SubmissionIndex: message.GetSubmissionIndex(),
		Sequence:        message.GetSequence(),
		Replayed:        message.GetReplayed(),
		MaybeBilled:     message.GetMaybeBilled(),
	}
	if message.GetOutput() == nil { // a result of neither kind is no success
		failure := message.GetError()
		result.Failure = &ItemFailure{
			Reason:     reasonOf(failure.GetReason()),
			Message:    failure.GetMessage(),
			Retryable:  failure.GetRetryable(),
			RetryAfter: failure.GetRetryAfter().AsDuration(),
			Metadata:   failure.GetMetadata(),
		}
	}
	return result
}

// Opened is what is in force for a batch.
type Opened struct {
	// BatchID is yours, or the one that this client made.
	BatchID string
	// Strategy is that of the items that name none; may be empty.
	Strategy string
	// MaxConcurrency: at most so many of the batch's items in flight, after clamping.
	MaxConcurrency int
	// ResultOrder is the order of results.
	ResultOrder ResultOrder
	// MaxMessageBytes is the largest message that the sidecar takes.
	MaxMessageBytes int64
	// ServerVersion is the sidecar's, e.g. 0.3.0.
	ServerVersion string
	// Items that the sidecar held already; 0 for a new batch.
	Items int64
	// LastSequence is that of the last result recorded; 0 for a new batch.
	LastSequence int64
	// Durable tells whether what is accepted outlives the sidecar.
	Durable bool
}

func openedOf(message *batchllmv1.BatchOpened) *Opened {
	return &Opened{
		BatchID:         message.GetBatchId(),
		Strategy:        message.GetStrategy(),
		MaxConcurrency:  int(message.GetMaxConcurrency()),
		ResultOrder:     ResultOrder(message.GetResultOrder()),
		MaxMessageBytes: message.GetMaxMessageBytes(),
		ServerVersion:   message.GetServerVersion(),
		Items:           message.GetItems(),
		LastSequence:    message.GetLastSequence(),
		Durable:         message.GetDurable(),
	}
}

// Progress is how far a batch is. The sidecar reports at most once a second.
type Progress struct {
	// Done items ended, failed ones included.
	Done int64
	// Failed items.
	Failed int64
	// InFlight items are being run.
	InFlight int64
	// Waiting items wait to be run.
	Waiting int64
	// InputTokens so far.
	InputTokens int64
	// OutputTokens so far.
	OutputTokens int64
	// CachedInputTokens so far.
	CachedInputTokens int64
	// Elapsed since the batch was opened.
	Elapsed time.Duration
	// Cooldown is the longest pause, of the quotas that the batch uses, that is still to come; 0 without one.
	Cooldown time.Duration
}

func progressOf(message *batchllmv1.BatchProgress) *Progress {
	return &Progress{
		Done:              message.GetDone(),
		Failed:            message.GetFailed(),
		InFlight:          message.GetInFlight(),
		Waiting:           message.GetWaiting(),
		InputTokens:       message.GetInputTokens(),
		OutputTokens:      message.GetOutputTokens(),
		CachedInputTokens: message.GetCachedInputTokens(),
		Elapsed:           message.GetElapsed().AsDuration(),
		Cooldown:          message.GetCooldown().AsDuration(),
	}
}

// Totals of a batch.
type Totals struct {
	// BatchID names the batch.
	BatchID string
	// TotalItems ended.
	TotalItems int64
	// Succeeded: of these, with an output.
	Succeeded int64
	// Failed: of these, without.
	Failed int64
	// TotalInputTokens of all items.
	TotalInputTokens int64
	// TotalOutputTokens of all items.
	TotalOutputTokens int64
	// TotalCachedTokens were read from context caches, of all items.
	TotalCachedTokens int64
	// CacheHitRate is the percentage of input tokens that came from a cache, 0 to 100.
	CacheHitRate float64
	// EffectiveInputTokens: input minus cached times each model's discount, rounded up once.
	EffectiveInputTokens int64
	// Elapsed from opening to the last result.
	Elapsed time.Duration
	// FailuresByReason counts failed items.
	FailuresByReason map[Reason]int64
	// Receipt has tokens by kind and their cost, context caches included; nil from a sidecar that has no receipts.
	Receipt *Receipt
}

func totalsOf(message *batchllmv1.BatchResult) *Totals {
	totals := &Totals{
		BatchID:              message.GetBatchId(),
		TotalItems:           message.GetTotalItems(),
		Succeeded:            message.GetSucceeded(),
		Failed:               message.GetFailed(),
		TotalInputTokens:     message.GetTotalInputTokens(),
		TotalOutputTokens:    message.GetTotalOutputTokens(),
		TotalCachedTokens:    message.GetTotalCachedTokens(),
		CacheHitRate:         message.GetCacheHitRate(),
		EffectiveInputTokens: message.GetEffectiveInputTokens(),
		Elapsed:              message.GetElapsed().AsDuration(),
		FailuresByReason:     make(map[Reason]int64, len(message.GetFailuresByReason())),
		Receipt:              message.GetReceipt(),
	}
	for reason, count := range message.GetFailuresByReason() {
		totals.FailuresByReason[Reason(reason)] = count
	}
	return totals
}
