package batchllm

import (
	"context"
	"fmt"
	"iter"
	"math"

	batchllmv1 "github.com/batch-llm/batch-llm/client_go/batchllm/v1"
)

// GetBatch shows a batch. ErrBatchNotFound: no such id.
func (c *Client) GetBatch(ctx context.Context, batchID string) (*BatchInfo, error) {
	response, err := call(ctx, c, c.batches.GetBatch, &batchllmv1.GetBatchRequest{BatchId: batchID})
	return response.GetBatch(), err
}

// ListBatches gives all batches by id, ended ones included until their retention is over. They are asked for pageSize
// at a time, at most 1,000; 0: the sidecar's default, 100. A pair with an error is the last one.
func (c *Client) ListBatches(ctx context.Context, pageSize int) iter.Seq2[*BatchInfo, error] {
	return func(yield func(*BatchInfo, error) bool) {
		if pageSize > math.MaxInt32 || pageSize < math.MinInt32 {
			yield(nil, fmt.Errorf("batchllm: a page size of %d has more than 32 bits", pageSize))
			return
		}
		request := &batchllmv1.ListBatchesRequest{PageSize: int32(pageSize)}
		for {
			page, err := call(ctx, c, c.batches.ListBatches, request)
			if err != nil {
				yield(nil, err)
				return
			}
			for _, batch := range page.GetBatches() {
				if !yield(batch, nil) {
					return
				}
			}
			if request.PageToken = page.GetNextPageToken(); request.PageToken == "" {
				return
			}
		}
	}
}

// CancelBatch ends a batch: items that have not ended get a result with ReasonCancelled. It gives the batch as it is
// then. Cancelling one that has ended is no error. ErrBatchNotFound: no such id.
func (c *Client) CancelBatch(ctx context.Context, batchID string) (*BatchInfo, error) {
	response, err := call(ctx, c, c.batches.CancelBatch, &batchllmv1.CancelBatchRequest{BatchId: batchID})
	return response.GetBatch(), err
}

// DeleteBatch erases a batch that has ended, its prompts and outputs included. ErrBatchNotFound: no such id.
// ErrBatchNotFinished: it has not ended.
func (c *Client) DeleteBatch(ctx context.Context, batchID string) error {
	_, err := call(ctx, c, c.batches.DeleteBatch, &batchllmv1.DeleteBatchRequest{BatchId: batchID})
	return err
}

// RegisterStrategy registers a strategy. It gives what is in force, and false if it existed with this very spec.
// ErrAlreadyExists: the name has another spec.
func (c *Client) RegisterStrategy(
	ctx context.Context, spec *StrategySpec,
) (strategy *Strategy, registered bool, err error) {
	request := &batchllmv1.RegisterStrategyRequest{Spec: spec}
	response, err := call(ctx, c, c.strategies.RegisterStrategy, request)
	return response.GetStrategy(), response.GetRegistered(), err
}

// GetStrategy shows a strategy. ErrNotFound: no such name.
func (c *Client) GetStrategy(ctx context.Context, name string) (*Strategy, error) {
	response, err := call(ctx, c, c.strategies.GetStrategy, &batchllmv1.GetStrategyRequest{Name: name})
	return response.GetStrategy(), err
}

// ListStrategies lists all strategies by name.
func (c *Client) ListStrategies(ctx context.Context) ([]*Strategy, error) {
	response, err := call(ctx, c, c.strategies.ListStrategies, &batchllmv1.ListStrategiesRequest{})
	return response.GetStrategies(), err
}

// UnregisterStrategy removes a strategy that was registered by a client. ErrFailedPrecondition: it is from the
// operator's file, or in use.
func (c *Client) UnregisterStrategy(ctx context.Context, name string) error {
	_, err := call(ctx, c, c.strategies.UnregisterStrategy, &batchllmv1.UnregisterStrategyRequest{Name: name})
	return err
}

// CreateOrReuseCache makes sure that a strategy's cache exists. It gives the cache, and true if it did. Without
// [WithTTL] a new one lives as long as the strategy says.
func (c *Client) CreateOrReuseCache(
	ctx context.Context, strategy string, options ...CacheOption,
) (cache *Cache, reused bool, err error) {
	request := &batchllmv1.CreateOrReuseRequest{Strategy: strategy, Ttl: newCacheOptions(options).ttl}
	response, err := call(ctx, c, c.caches.CreateOrReuse, request)
	return response.GetCache(), response.GetReused(), err
}

// RenewCache lets a cache live on, from now as long as [WithTTL] or else the strategy says. It gives the cache, and true
// if it had ended and was created anew. ErrNotFound: there is none.
func (c *Client) RenewCache(
	ctx context.Context, strategy string, options ...CacheOption,
) (cache *Cache, recreated bool, err error) {
	request := &batchllmv1.RenewRequest{Strategy: strategy, Ttl: newCacheOptions(options).ttl}
	response, err := call(ctx, c, c.caches.Renew, request)
	return response.GetCache(), response.GetRecreated(), err
}

// DeleteCache deletes a strategy's cache. It gives what was deleted, nil if there was none.
func (c *Client) DeleteCache(ctx context.Context, strategy string) (*Cache, error) {
	response, err := call(ctx, c, c.caches.Delete, &batchllmv1.DeleteRequest{Strategy: strategy})
	return response.GetCache(), err
}

// GetCache shows a strategy's cache. ErrNotFound: there is none.
func (c *Client) GetCache(ctx context.Context, strategy string) (*Cache, error) {
	response, err := call(ctx, c, c.caches.GetCache, &batchllmv1.GetCacheRequest{Strategy: strategy})
	return response.GetCache(), err
}

// ListCaches lists all caches that the sidecar holds, expired ones included.
func (c *Client) ListCaches(ctx context.Context) ([]*Cache, error) {
	response, err := call(ctx, c, c.caches.ListCaches, &batchllmv1.ListCachesRequest{})
	return response.GetCaches(), err
}
