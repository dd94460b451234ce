package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/batch-llm/batch-llm/client_go/batchllm"
	batchllmv1 "github.com/batch-llm/batch-llm/client_go/batchllm/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// callClient calls the function that users call, and puts what it gives into the RPC's response.
func callClient(client *batchllm.Client, told command) (answer, error) {
	ctx := context.Background()
	if told.Timeout != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, seconds(*told.Timeout))
		defer cancel()
	}
	response, err := respond(ctx, client, told)
	if err != nil {
		return nil, err
	}
	return answer{"response": shown{response}}, nil
}

func respond(ctx context.Context, client *batchllm.Client, told command) (proto.Message, error) {
	switch told.Method {
	case "ProcessItem":
		return with(told, &batchllmv1.ProcessItemRequest{}, func(r *batchllmv1.ProcessItemRequest) (proto.Message, error) {
			result, err := client.ProcessItem(ctx, workItem(r.GetItem()), batchllm.WithIdempotencyKey(r.GetIdempotencyKey()))
			if err != nil {
				return nil, err
			}
			return &batchllmv1.ProcessItemResponse{Result: resultMessage(result)}, nil
		})
	case "GetBatch":
		return with(told, &batchllmv1.GetBatchRequest{}, func(r *batchllmv1.GetBatchRequest) (proto.Message, error) {
			batch, err := client.GetBatch(ctx, r.GetBatchId())
			return &batchllmv1.GetBatchResponse{Batch: batch}, err
		})
	case "ListBatches":
		return with(told, &batchllmv1.ListBatchesRequest{}, func(r *batchllmv1.ListBatchesRequest) (proto.Message, error) {
			all := &batchllmv1.ListBatchesResponse{}
			for batch, err := range client.ListBatches(ctx, int(r.GetPageSize())) {
				if err != nil {
					return nil, err
				}
				all.Batches = append(all.Batches, batch)
			}
			return all, nil
		})
	case "CancelBatch":
		return with(told, &batchllmv1.CancelBatchRequest{}, func(r *batchllmv1.CancelBatchRequest) (proto.Message, error) {
			batch, err := client.CancelBatch(ctx, r.GetBatchId())
			return &batchllmv1.CancelBatchResponse{Batch: batch}, err
		})
	case "DeleteBatch":
		return with(told, &batchllmv1.DeleteBatchRequest{}, func(r *batchllmv1.DeleteBatchRequest) (proto.Message, error) {
			return &batchllmv1.DeleteBatchResponse{}, client.DeleteBatch(ctx, r.GetBatchId())
		})
	case "RegisterStrategy":
		return with(told, &batchllmv1.RegisterStrategyRequest{}, func(r *batchllmv1.RegisterStrategyRequest) (proto.Message, error) {
			strategy, registered, err := client.RegisterStrategy(ctx, r.GetSpec())
			return &batchllmv1.RegisterStrategyResponse{Strategy: strategy, Registered: registered}, err
		})
	case "GetStrategy":
		return with(told, &batchllmv1.GetStrategyRequest{}, func(r *batchllmv1.GetStrategyRequest) (proto.Message, error) {
			strategy, err := client.GetStrategy(ctx, r.GetName())
			return &batchllmv1.GetStrategyResponse{Strategy: strategy}, err
		})
	case "ListStrategies":
		strategies, err := client.ListStrategies(ctx)
		return &batchllmv1.ListStrategiesResponse{Strategies: strategies}, err
	case "UnregisterStrategy":
		return with(told, &batchllmv1.UnregisterStrategyRequest{}, func(r *batchllmv1.UnregisterStrategyRequest) (proto.Message, error) {
			return &batchllmv1.UnregisterStrategyResponse{}, client.UnregisterStrategy(ctx, r.GetName())
		})
	case "CreateOrReuse":
		return with(told, &batchllmv1.CreateOrReuseRequest{}, func(r *batchllmv1.CreateOrReuseRequest) (proto.Message, error) {
			cache, reused, err := client.CreateOrReuseCache(ctx, r.GetStrategy(), cacheOptions(r.GetTtl())...)
			return &batchllmv1.CreateOrReuseResponse{Cache: cache, Reused: reused}, err
		})
	case "Renew":
		return with(told, &batchllmv1.RenewRequest{}, func(r *batchllmv1.RenewRequest) (proto.Message, error) {
			cache, recreated, err := client.RenewCache(ctx, r.GetStrategy(), cacheOptions(r.GetTtl())...)
			return &batchllmv1.RenewResponse{Cache: cache, Recreated: recreated}, err
		})
	case "Delete":
		return with(told, &batchllmv1.DeleteRequest{}, func(r *batchllmv1.DeleteRequest) (proto.Message, error) {
			cache, err := client.DeleteCache(ctx, r.GetStrategy())
			return &batchllmv1.DeleteResponse{Deleted: cache != nil, Cache: cache}, err
		})
	case "GetCache":
		return with(told, &batchllmv1.GetCacheRequest{}, func(r *batchllmv1.GetCacheRequest) (proto.Message, error) {
			cache, err := client.GetCache(ctx, r.GetStrategy())
			return &batchllmv1.GetCacheResponse{Cache: cache}, err
		})
	case "ListCaches":
		caches, err := client.ListCaches(ctx)
		return &batchllmv1.ListCachesResponse{Caches: caches}, err
	}
	return nil, fault{fmt.Errorf("unknown method %q", told.Method)}
}

func with[R proto.Message](told command, request R, call func(R) (proto.Message, error)) (proto.Message, error) {
	request, err := read(told.Request, request)
	if err != nil {
		return nil, err
	}
	return call(request)
}

func cacheOptions(ttl *durationpb.Duration) []batchllm.CacheOption {
	if ttl == nil {
		return nil
	}
	return []batchllm.CacheOption{batchllm.WithTTL(ttl.AsDuration())}
}

func workItems(texts []json.RawMessage) (items []batchllm.WorkItem, err error) {
	for _, text := range texts {
		message, err := read(text, &batchllmv1.WorkItem{})
		if err != nil {
			return nil, err
		}
		items = append(items, workItem(message))
	}
	return items, nil
}

func workItem(message *batchllmv1.WorkItem) batchllm.WorkItem {
	return batchllm.WorkItem{
		ItemID:   message.GetItemId(),
		Prompt:   message.GetPrompt(),
		Strategy: message.GetStrategy(),
		Context:  message.GetContext(),
		Timeout:  message.GetTimeout().AsDuration(),
	}
}

func resultMessage(result *batchllm.Result) *batchllmv1.WorkItemResult {
	message := &batchllmv1.WorkItemResult{
		ItemId:          result.ItemID,
		SubmissionIndex: result.SubmissionIndex,
		Sequence:        result.Sequence,
		Usage: &batchllmv1.TokenUsage{
			InputTokens:          result.Usage.InputTokens,
			OutputTokens:         result.Usage.OutputTokens,
			TotalTokens:          result.Usage.TotalTokens,
			CachedInputTokens:    result.Usage.CachedInputTokens,
			ThinkingTokens:       result.Usage.ThinkingTokens,
			EffectiveInputTokens: result.Usage.EffectiveInputTokens,
		},
		Attempts:    int32(result.Attempts),
		Elapsed:     durationpb.New(result.Elapsed),
		Strategy:    result.Strategy,
		Model:       result.Model,
		Context:     result.Context,
		Receipt:     result.Receipt,
		Replayed:    result.Replayed,
		MaybeBilled: result.MaybeBilled,
	}
	if failure := result.Failure; failure != nil {
		message.Outcome = &batchllmv1.WorkItemResult_Error{Error: &batchllmv1.ItemError{
			Reason:     batchllmv1.ErrorReason(batchllmv1.ErrorReason_value["ERROR_REASON_"+string(failure.Reason)]),
			Message:    failure.Message,
			Retryable:  failure.Retryable,
			RetryAfter: duration(failure.RetryAfter),
			Metadata:   failure.Metadata,
		}}
	} else {
		message.Outcome = &batchllmv1.WorkItemResult_Output{Output: &batchllmv1.Output{
			Text: result.Text, FinishReason: result.FinishReason, SafetyRatings: result.SafetyRatings,
		}}
	}
	return message
}

func openedMessage(opened *batchllm.Opened) *batchllmv1.BatchOpened {
	return &batchllmv1.BatchOpened{
		BatchId:         opened.BatchID,
		Strategy:        opened.Strategy,
		MaxConcurrency:  int32(opened.MaxConcurrency),
		ResultOrder:     batchllmv1.ResultOrder(opened.ResultOrder),
		MaxMessageBytes: opened.MaxMessageBytes,
		ServerVersion:   opened.ServerVersion,
		Items:           opened.Items,
		LastSequence:    opened.LastSequence,
		Durable:         opened.Durable,
	}
}

func progressMessage(progress *batchllm.Progress) *batchllmv1.BatchProgress {
	return &batchllmv1.BatchProgress{
		Done:              progress.Done,
		Failed:            progress.Failed,
		InFlight:          progress.InFlight,
		Waiting:           progress.Waiting,
		InputTokens:       progress.InputTokens,
		OutputTokens:      progress.OutputTokens,
		CachedInputTokens: progress.CachedInputTokens,
		Elapsed:           durationpb.New(progress.Elapsed),
		Cooldown:          duration(progress.Cooldown),
	}
}

func totalsMessage(totals *batchllm.Totals) *batchllmv1.BatchResult {
	failures := make(map[string]int64, len(totals.FailuresByReason))
	for reason, count := range totals.FailuresByReason {
		failures[string(reason)] = count
	}
	return &batchllmv1.BatchResult{
		BatchId:              totals.BatchID,
		TotalItems:           totals.TotalItems,
		Succeeded:            totals.Succeeded,
		Failed:               totals.Failed,
		TotalInputTokens:     totals.TotalInputTokens,
		TotalOutputTokens:    totals.TotalOutputTokens,
		TotalCachedTokens:    totals.TotalCachedTokens,
		CacheHitRate:         totals.CacheHitRate,
		EffectiveInputTokens: totals.EffectiveInputTokens,
		Elapsed:              durationpb.New(totals.Elapsed),
		FailuresByReason:     failures,
		Receipt:              totals.Receipt,
	}
}

// duration gives one that is absent when it is 0.
func duration(value time.Duration) *durationpb.Duration {
	if value == 0 {
		return nil
	}
	return durationpb.New(value)
}
