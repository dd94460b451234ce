package batchllm

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	batchllmv1 "github.com/batch-llm/batch-llm/client_go/batchllm/v1"
	"google.golang.org/protobuf/types/known/durationpb"
)

// scripted is a prompt that tells the simulated provider what to do.
func scripted(does string) string { return `{"simulate": {` + does + `}}` }

// echoing gives a client of a real sidecar that has the strategy `echo`.
func echoing(t testing.TB, listen string, options ...ClientOption) (*Client, *sidecar) {
	t.Helper()
	running := startSidecar(t, listen)
	client := newClient(t, running.target, options...)
	if err := client.WaitUntilReady(within(t)); err != nil {
		t.Fatal(err)
	}
	register(t, client)
	return client, running
}

func register(t testing.TB, client *Client) {
	t.Helper()
	if _, _, err := client.RegisterStrategy(within(t), &StrategySpec{Name: "echo", Provider: "simulated"}); err != nil {
		t.Fatal(err)
	}
}

func TestABatch(t *testing.T) {
	for name, listen := range map[string]string{
		"TCP":    "127.0.0.1:0",
		"socket": "unix:" + filepath.Join(t.TempDir(), "sidecar.sock"),
	} {
		t.Run(name, func(t *testing.T) {
			client, _ := echoing(t, listen)
			var reports []Progress
			work := []WorkItem{
				{ItemID: "fine", Prompt: scripted(`"reply": "done", "latency_ms": 30, "input_tokens": 7`), Context: []byte{0, 255}},
				{ItemID: "bad", Prompt: scripted(`"error": {"status": 400}`)},
				{ItemID: "strange", Prompt: "p", Strategy: "no-such"},
				{ItemID: "slow", Prompt: scripted(`"latency_ms": 2500`), Timeout: 1100 * time.Millisecond},
			}
			batch := client.ProcessBatch(within(t), slices.Values(work), WithStrategy("echo"), WithMaxConcurrency(3),
				WithResultOrder(AsSubmitted), WithProgress(func(p Progress) { reports = append(reports, p) }))
			opened, err := batch.Opened()
			if err != nil {
				t.Fatal(err)
			}
			if opened.BatchID != batch.BatchID() || opened.MaxConcurrency != 3 || opened.ResultOrder != AsSubmitted ||
				!opened.Durable || opened.Strategy != "echo" || opened.ServerVersion == "" || opened.MaxMessageBytes == 0 {
				t.Errorf("%+v", opened)
			}
			results, err := collect(batch)
			if err != nil {
				t.Fatal(err)
			}
			checkSequences(t, results, 4)
			fine := results[0]
			if !fine.OK() || fine.ItemID != "fine" || fine.Text != "done" || fine.FinishReason != "stop" || fine.Usage.InputTokens != 7 ||
				string(fine.Context) != "\x00\xff" || fine.Attempts != 1 || fine.Strategy != "echo" || fine.Model != "simulated" ||
				fine.Elapsed < 30*time.Millisecond || fine.SubmissionIndex != 0 || fine.Replayed || fine.MaybeBilled {
				t.Errorf("%+v", fine)
			}
			for place, reason := range map[int]Reason{1: ReasonProviderRejected, 2: ReasonStrategyNotFound, 3: ReasonItemDeadlineExceeded} {
				if failure := results[place].Failure; results[place].OK() || failure.Reason != reason || failure.Message == "" {
					t.Errorf("%+v", failure)
				}
			}
			if known := results[2].Failure.Metadata["known"]; known != "echo" {
				t.Errorf("known: %q", known)
			}
			totals := batch.Totals()
			if totals.TotalItems != 4 || totals.Succeeded != 1 || totals.Failed != 3 ||
				totals.FailuresByReason[ReasonProviderRejected] != 1 || totals.BatchID != batch.BatchID() || totals.Elapsed == 0 {
				t.Errorf("%+v", totals)
			}
			if len(reports) == 0 || *batch.Progress() != reports[len(reports)-1] {
				t.Error(reports)
			}
			if again, err := collect(batch); len(again) != 0 || err != nil {
				t.Error("a batch that has ended gives", again, err)
			}
		})
	}
}

func TestManyBatchesAtOnceWithOneClient(t *testing.T) {
	client, _ := echoing(t, "127.0.0.1:0")
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			results, err := collect(client.ProcessBatch(within(t), slices.Values(items(500)), WithStrategy("echo")))
			if err != nil || len(results) != 500 {
				t.Error(len(results), err)
			}
			result, err := client.ProcessItem(within(t), WorkItem{ItemID: "1", Prompt: "p", Strategy: "echo"})
			if err != nil || !result.OK() {
				t.Error(result, err)
			}
		})
	}
	all.Wait()
}

func TestLeavingEarlyLeavesNoGoroutine(t *testing.T) {
	client, _ := echoing(t, "127.0.0.1:0")
	goroutines := runtime.NumGoroutine()
	for range 20 {
		for _, err := range client.ProcessBatch(within(t), slices.Values(items(300)), WithStrategy("echo")).Results() {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
		client.ProcessBatch(within(t), slices.Values(items(300))) // never used
	}
	eventually(t, "no more goroutines than before", func() bool { return runtime.NumGoroutine() <= goroutines })
}

func TestAKilledSidecarIsRiddenOut(t *testing.T) {
	// A port might be somebody else's before it is back.
	client, running := echoing(t, "unix:"+filepath.Join(t.TempDir(), "sidecar.sock"))
	work := make([]WorkItem, 3000)
	for number := range work {
		work[number] = WorkItem{ItemID: fmt.Sprint(number), Prompt: scripted(`"latency_ms": 5`), Strategy: "echo"}
	}
	batch := client.ProcessBatch(within(t), slices.Values(work))
	seen := map[string]bool{}
	var last int64
	for result, err := range batch.Results() {
		if err != nil {
			t.Fatal(err)
		}
		if last++; result.Sequence != last || seen[result.ItemID] || !result.OK() {
			t.Fatalf("after %d: %+v", last, result)
		}
		seen[result.ItemID] = true
		if last == 200 {
			running.kill()
			running.start()
			register(t, newClient(t, running.target))
		}
	}
	if len(seen) != len(work) || batch.Totals().TotalItems != int64(len(work)) {
		t.Error(len(seen), batch.Totals())
	}
}

func TestAnotherClientGoesOn(t *testing.T) {
	client, running := echoing(t, "127.0.0.1:0")
	ctx := within(t)
	left := make(chan struct{})
	unfinished := func(yield func(WorkItem) bool) {
		slices.Values(items(50))(yield)
		<-left
	}
	batch := client.ProcessBatch(ctx, unfinished, WithStrategy("echo"), WithBatchID("nightly"))
	for _, err := range batch.Results() {
		if err != nil {
			t.Fatal(err)
		}
		if batch.LastSequence() == 10 {
			break
		}
	}
	close(left)
	eventually(t, "the sidecar lets go of the batch", func() bool {
		info, err := client.GetBatch(ctx, "nightly")
		return err == nil && !info.GetRunning()
	})
	other := newClient(t, running.target)
	results, err := collect(other.ProcessBatch(ctx, slices.Values(items(60)), WithStrategy("echo"), WithBatchID("nightly"),
		WithResumeAfter(batch.LastSequence())))
	if err != nil || len(results) != 50 || results[0].Sequence != 11 || results[49].Sequence != 60 {
		t.Fatal(len(results), err)
	}
	resumed, err := other.ResumeBatch(ctx, "nightly", WithResumeAfter(58))
	if err != nil {
		t.Fatal(err)
	}
	results, err = collect(resumed)
	if err != nil || len(results) != 2 || !results[0].Replayed || resumed.Totals().TotalItems != 60 {
		t.Error(results, err)
	}
	_, err = other.ResumeBatch(ctx, "no-such")
	checkIs(t, err, ErrBatchNotFound, ErrNotFound)
}

func TestABatchIsLeftToTheSidecar(t *testing.T) {
	client, _ := echoing(t, "127.0.0.1:0")
	ctx := within(t)
	work := []WorkItem{
		{ItemID: "1", Prompt: scripted(`"latency_ms": 300, "reply": "a"`)}, {ItemID: "2", Prompt: scripted(`"reply": "b"`)},
	}
	batch := client.ProcessBatch(ctx, slices.Values(work), WithStrategy("echo"), WithDetach(), WithBatchID("left"),
		WithResultOrder(AsSubmitted))
	if held, err := batch.Leave(); held != 2 || err != nil {
		t.Fatal(held, err)
	}
	info, err := client.GetBatch(ctx, "left")
	if err != nil || info.GetState() == batchllmv1.BatchState_BATCH_STATE_OPEN || !info.GetDetach() {
		t.Error(info, err)
	}
	eventually(t, "the batch ends by itself", func() bool {
		info, err := client.GetBatch(ctx, "left")
		return err == nil && info.GetState() == batchllmv1.BatchState_BATCH_STATE_FINISHED
	})
	resumed, err := client.ResumeBatch(ctx, "left")
	if err != nil {
		t.Fatal(err)
	}
	results, err := collect(resumed)
	if err != nil || len(results) != 2 || results[0].Text != "a" || results[1].Text != "b" {
		t.Error(results, err)
	}
	if held, err := resumed.Leave(); held != 2 || err != nil {
		t.Error("after its end:", held, err)
	}
}

func TestBatchesAreListedCancelledAndErased(t *testing.T) {
	client, _ := echoing(t, "127.0.0.1:0")
	ctx := within(t)
	for number := range 5 {
		_, err := collect(client.ProcessBatch(ctx, slices.Values(items(1)), WithStrategy("echo"), WithBatchID(fmt.Sprint("b", number))))
		if err != nil {
			t.Fatal(err)
		}
	}
	var ids []string
	for info, err := range client.ListBatches(ctx, 2) {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, info.GetBatchId())
	}
	if !slices.Equal(ids, []string{"b0", "b1", "b2", "b3", "b4"}) {
		t.Error(ids)
	}
	for _, err := range client.ListBatches(ctx, -1) {
		checkIs(t, err, ErrInvalidRequest)
	}
	slow := []WorkItem{{ItemID: "1", Prompt: scripted(`"latency_ms": 60000`)}}
	batch := client.ProcessBatch(ctx, slices.Values(slow), WithStrategy("echo"), WithBatchID("slow"))
	if _, err := batch.Opened(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the item is there", func() bool {
		info, err := client.GetBatch(ctx, "slow")
		return err == nil && info.GetItems() == 1
	})
	checkIs(t, client.DeleteBatch(ctx, "slow"), ErrBatchNotFinished, ErrFailedPrecondition)
	_, err := collect(client.ProcessBatch(ctx, slices.Values(slow), WithStrategy("echo"), WithBatchID("slow")))
	checkIs(t, err, ErrBatchInUse, ErrAborted)
	info, err := client.CancelBatch(ctx, "slow")
	if err != nil || info.GetState() != batchllmv1.BatchState_BATCH_STATE_CANCELLED {
		t.Error(info, err)
	}
	results, err := collect(batch)
	if err != nil || len(results) != 1 || results[0].Failure.Reason != ReasonCancelled {
		t.Error(results, err)
	}
	if err := client.DeleteBatch(ctx, "slow"); err != nil {
		t.Error(err)
	}
	checkIs(t, client.DeleteBatch(ctx, "slow"), ErrBatchNotFound)
	_, err = client.CancelBatch(ctx, "slow")
	checkIs(t, err, ErrBatchNotFound)
}

func TestASingleItem(t *testing.T) {
	client, _ := echoing(t, "127.0.0.1:0")
	ctx := within(t)
	item := WorkItem{ItemID: "1", Prompt: scripted(`"reply": "done"`), Strategy: "echo"}
	for _, replayed := range []bool{false, true} {
		result, err := client.ProcessItem(ctx, item, WithIdempotencyKey("order-7"))
		if err != nil || result.Text != "done" || result.Replayed != replayed {
			t.Error(result, err)
		}
	}
	item.Prompt = "other"
	_, err := client.ProcessItem(ctx, item, WithIdempotencyKey("order-7"))
	checkIs(t, err, ErrIdempotencyConflict, ErrAlreadyExists)
	item.Prompt = scripted(`"error": {"status": 401}`)
	if result, err := client.ProcessItem(ctx, item); err != nil || result.Failure.Reason != ReasonAuthenticationFailed {
		t.Error(result, err)
	}
	item.Prompt = scripted(`"reply": "` + strings.Repeat("x", 5<<20) + `"`)
	if result, err := client.ProcessItem(ctx, item); err != nil || len(result.Text) != 5<<20 {
		t.Error("a large result:", err)
	}
	item.Prompt = scripted(`"latency_ms": 60000`)
	brief, cancel := context.WithTimeout(ctx, 30*time.Millisecond)
	defer cancel()
	_, err = client.ProcessItem(brief, item)
	checkIs(t, err, ErrDeadlineExceeded, context.DeadlineExceeded)
	_, err = newClient(t, client.target, WithTimeout(30*time.Millisecond)).ProcessItem(context.Background(), item)
	checkIs(t, err, ErrDeadlineExceeded)
	gone, cancelGone := context.WithCancel(ctx)
	cancelGone()
	_, err = client.ProcessItem(gone, item)
	checkIs(t, err, ErrCanceled, context.Canceled)
}

func TestStrategiesAndCaches(t *testing.T) {
	client, _ := echoing(t, "127.0.0.1:0")
	ctx := within(t)
	spec := &StrategySpec{Name: "cached", Provider: "simulated", CachedContent: []string{strings.Repeat("shared ", 2000)}, CacheTtl: durationpb.New(time.Hour)}
	for _, fresh := range []bool{true, false} {
		strategy, registered, err := client.RegisterStrategy(ctx, spec)
		if err != nil || registered != fresh || strategy.GetSpec().GetName() != "cached" {
			t.Error(strategy, registered, err)
		}
	}
	other := &StrategySpec{Name: "cached", Provider: "simulated"}
	_, _, err := client.RegisterStrategy(ctx, other)
	checkIs(t, err, ErrAlreadyExists)
	var typed *Error
	if !errors.As(err, &typed) || typed.Reason != ReasonStrategyExists || typed.Metadata["differs"] == "" {
		t.Errorf("%+v", typed)
	}
	if all, err := client.ListStrategies(ctx); err != nil || len(all) != 2 {
		t.Error(all, err)
	}
	if strategy, err := client.GetStrategy(ctx, "cached"); err != nil || strategy.GetProviderKind() != "simulated" {
		t.Error(strategy, err)
	}

	_, err = client.GetCache(ctx, "cached")
	checkIs(t, err, ErrNotFound)
	for _, existed := range []bool{false, true} {
		cache, reused, err := client.CreateOrReuseCache(ctx, "cached", WithTTL(20*time.Minute))
		if err != nil || reused != existed {
			t.Fatal(cache, reused, err)
		}
		if life := cache.GetExpireTime().AsTime().Sub(cache.GetCreateTime().AsTime()); life.Round(time.Second) != 20*time.Minute {
			t.Error(life)
		}
	}
	if cache, recreated, err := client.RenewCache(ctx, "cached"); err != nil || recreated || time.Until(cache.GetExpireTime().AsTime()) < 50*time.Minute {
		t.Error(cache, recreated, err)
	}
	if cache, err := client.GetCache(ctx, "cached"); err != nil || cache.GetStrategy() != "cached" {
		t.Error(cache, err)
	}
	if all, err := client.ListCaches(ctx); err != nil || len(all) != 1 {
		t.Error(all, err)
	}
	for _, deleted := range []bool{true, false} {
		if cache, err := client.DeleteCache(ctx, "cached"); err != nil || (cache != nil) != deleted {
			t.Error(cache, err)
		}
	}
	_, _, err = client.CreateOrReuseCache(ctx, "cached", WithTTL(0))
	checkIs(t, err, ErrInvalidRequest)
	_, _, err = client.CreateOrReuseCache(ctx, "echo")
	checkIs(t, err, ErrFailedPrecondition)

	if err := client.UnregisterStrategy(ctx, "cached"); err != nil {
		t.Error(err)
	}
	checkIs(t, client.UnregisterStrategy(ctx, "cached"), ErrNotFound)
}

func TestAClosedClient(t *testing.T) {
	client, _ := echoing(t, "127.0.0.1:0")
	slow := []WorkItem{{ItemID: "1", Prompt: scripted(`"latency_ms": 60000`)}}
	batch := client.ProcessBatch(within(t), slices.Values(slow), WithStrategy("echo"))
	if _, err := batch.Opened(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	}
	_, err := collect(batch)
	checkIs(t, err, ErrClosed, ErrCanceled)
	_, err = client.GetBatch(within(t), "b")
	checkIs(t, err, ErrClosed)
	_, err = collect(client.ProcessBatch(within(t), slices.Values(items(1))))
	checkIs(t, err, ErrClosed)
	checkIs(t, client.WaitUntilReady(within(t)), ErrClosed)
}

func TestNobodyAnswers(t *testing.T) {
	client := newClient(t, "unix:"+filepath.Join(t.TempDir(), "no.sock"))
	_, err := collect(client.ProcessBatch(within(t), slices.Values(items(1))))
	checkIs(t, err, ErrUnavailable)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
	defer cancel()
	checkIs(t, client.WaitUntilReady(ctx), ErrUnavailable, context.DeadlineExceeded)
}
