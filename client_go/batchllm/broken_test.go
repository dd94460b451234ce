package batchllm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	batchllmv1 "github.com/batch-llm/batch-llm/client_go/batchllm/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

var policy = ResumePolicy{MaxTries: 5, InitialBackoff: time.Second, MaxBackoff: 4 * time.Second}

// run runs a batch of so many items to its end, with waits that take no time.
func run(t *testing.T, target string, count int, options ...BatchOption) ([]*Result, *Batch, *fakeTime, error) {
	t.Helper()
	passed := &fakeTime{}
	client := newClient(t, target, passed.option(), WithResumePolicy(policy))
	batch := client.ProcessBatch(within(t), slices.Values(items(count)), options...)
	results, err := collect(batch)
	return results, batch, passed, err
}

func TestABrokenConnectionIsRiddenOut(t *testing.T) {
	var second []string
	fake, target := startFake(t,
		func(s *serving) error {
			s.say(opened(0, 0))
			if _, err := s.ids(5); err != nil {
				return err
			}
			s.say(accepted(3, 3), results(1, 2))
			return failing(codes.Unavailable, "")
		},
		func(s *serving) error {
			s.say(opened(3, 2))
			ids, err := s.ids(100)
			if err != io.EOF {
				return err
			}
			second = ids
			s.say(accepted(5, 2), results(3, 5), totals(5))
			return nil
		},
	)
	results, batch, passed, err := run(t, target, 5, WithStrategy("s"), WithLabels(map[string]string{"job": "nightly"}))
	if err != nil {
		t.Fatal(err)
	}
	checkSequences(t, results, 5)
	if !slices.Equal(second, []string{"3", "4"}) {
		t.Errorf("sent again: %v", second)
	}
	if batch.Totals().TotalItems != 5 || batch.LastSequence() != 5 {
		t.Error(batch.Totals(), batch.LastSequence())
	}
	if !slices.Equal(passed.waits, seconds(1)) {
		t.Error(passed.waits)
	}
	openings := fake.openings()
	if len(openings) != 2 || openings[0].GetBatchId() != batch.BatchID() || openings[0].GetResumeAfterSequence() != 0 {
		t.Fatal(openings)
	}
	again := openings[1]
	if again.GetResumeAfterSequence() != 2 || again.GetBatchId() != batch.BatchID() || again.GetStrategy() != "s" ||
		again.GetLabels()["job"] != "nightly" {
		t.Error(again)
	}
}

func TestResultsThatWereHandedOutArePassedOver(t *testing.T) {
	_, target := startFake(t,
		func(s *serving) error {
			s.say(opened(0, 0), results(1, 3))
			return failing(codes.Internal, "")
		},
		func(s *serving) error {
			s.say(opened(3, 3), results(2, 4), totals(4))
			return nil
		},
	)
	results, _, _, err := run(t, target, 0)
	if err != nil {
		t.Fatal(err)
	}
	checkSequences(t, results, 4)
}

func TestItGivesUp(t *testing.T) {
	fake, target := startFake(t, func(s *serving) error {
		s.say(opened(0, 0))
		return failing(codes.Unavailable, "")
	})
	for range 9 {
		fake.script = append(fake.script, func(*serving) error { return failing(codes.Unavailable, "") })
	}
	_, _, passed, err := run(t, target, 1)
	checkIs(t, err, ErrUnavailable)
	if !slices.Equal(passed.waits, seconds(1, 2, 4, 4, 4)) {
		t.Error(passed.waits)
	}
}

func TestWhatTheServerAsksForIsWaited(t *testing.T) {
	_, target := startFake(t,
		func(s *serving) error {
			s.say(opened(0, 0))
			return failing(codes.Unavailable, ReasonServerDraining, retryAfter(30*time.Second))
		},
		func(s *serving) error { return failing(codes.Aborted, ReasonBatchInUse) },
		func(s *serving) error { return failing(codes.ResourceExhausted, ReasonJournalFull) },
		func(s *serving) error {
			s.say(opened(0, 0), totals(0))
			return nil
		},
	)
	_, _, passed, err := run(t, target, 0)
	if err != nil || !slices.Equal(passed.waits, seconds(31, 1, 2)) {
		t.Error(err, passed.waits)
	}
}

func TestWhatIsNotRiddenOut(t *testing.T) {
	broken := func(s *serving) error {
		s.say(opened(2, 0), results(1, 1))
		return failing(codes.Unavailable, "")
	}
	for name, test := range map[string]struct {
		script  script
		options []BatchOption
		wanted  []error
	}{
		"before it has opened": {
			script{func(*serving) error { return failing(codes.Unavailable, "") }}, nil, []error{ErrUnavailable},
		},
		"without resume": {script{broken}, []BatchOption{WithoutResume()}, []error{ErrUnavailable}},
		"an answer": {
			script{broken, func(*serving) error { return failing(codes.NotFound, ReasonStrategyNotFound) }}, nil,
			[]error{ErrNotFound},
		},
		"a server that holds fewer items": {
			script{broken, func(s *serving) error { s.say(opened(1, 1)); return hold(s) }}, nil, []error{ErrBatchLost},
		},
		"a server that has fewer results": {
			script{broken, func(s *serving) error { s.say(opened(2, 0)); return hold(s) }}, nil, []error{ErrBatchLost},
		},
		"a server that refuses the sequence": {
			script{broken, func(*serving) error {
				return failing(codes.InvalidArgument, "", &errdetails.ErrorInfo{
					Reason: string(ReasonInvalidField), Domain: domain, Metadata: map[string]string{"field": "resume_after_sequence"},
				})
			}}, nil, []error{ErrBatchLost},
		},
		"results left out": {
			script{func(s *serving) error { s.say(opened(0, 0), results(2, 2)); return hold(s) }}, nil, []error{ErrUnexpected},
		},
		"the last results left out": {
			script{func(s *serving) error { s.say(opened(0, 0), results(1, 1), totals(2)); return nil }}, nil, []error{ErrUnexpected},
		},
		"no totals": {
			script{func(s *serving) error { s.say(opened(0, 0)); return nil }}, nil, []error{ErrUnexpected},
		},
		"not opened": {script{func(s *serving) error { return nil }}, nil, []error{ErrUnexpected}},
		"more confirmed than sent": {
			script{func(s *serving) error { s.say(opened(0, 0), accepted(9, 9)); return hold(s) }}, nil, []error{ErrUnexpected},
		},
	} {
		t.Run(name, func(t *testing.T) {
			fake, target := startFake(t, test.script...)
			_, batch, _, err := run(t, target, 2, test.options...)
			checkIs(t, err, test.wanted...)
			var typed *Error
			if !errors.As(err, &typed) {
				t.Errorf("%T is no *Error", err)
			}
			if count := len(fake.openings()); count != len(test.script) {
				t.Errorf("%d streams", count)
			}
			if _, again := collect(batch); again != err {
				t.Errorf("then %v", again)
			}
		})
	}
}

func TestWhatIsLostIsTold(t *testing.T) {
	_, target := startFake(t,
		func(s *serving) error {
			s.say(opened(0, 0), accepted(7, 0), results(1, 3))
			return failing(codes.Unavailable, "")
		},
		func(s *serving) error { s.say(opened(0, 0)); return hold(s) },
	)
	_, batch, _, err := run(t, target, 0)
	var lost *BatchLostError
	if !errors.As(err, &lost) || *lost != (BatchLostError{batch.BatchID(), 7, 3, true}) {
		t.Errorf("%+v", lost)
	}
}

func TestAnErrorAfterTheTotalsIsNone(t *testing.T) {
	_, target := startFake(t, func(s *serving) error {
		s.say(opened(0, 0), results(1, 1), totals(1))
		return failing(codes.Unavailable, "")
	})
	results, batch, _, err := run(t, target, 0)
	if err != nil || len(results) != 1 || batch.Totals() == nil {
		t.Error(results, batch.Totals(), err)
	}
}

func TestTheContextEndsAWait(t *testing.T) {
	for name, test := range map[string]struct {
		end    func(cancel context.CancelCauseFunc, batch *Batch)
		wanted []error
	}{
		"cancelled":      {func(cancel context.CancelCauseFunc, _ *Batch) { cancel(nil) }, []error{ErrCanceled, context.Canceled}},
		"with a cause":   {func(cancel context.CancelCauseFunc, _ *Batch) { cancel(io.ErrNoProgress) }, []error{context.Canceled, io.ErrNoProgress}},
		"by Cancel":      {func(_ context.CancelCauseFunc, batch *Batch) { batch.Cancel() }, []error{ErrCanceled}},
		"by Close":       {func(_ context.CancelCauseFunc, batch *Batch) { _ = batch.client.Close() }, []error{ErrClosed, ErrCanceled}},
		"not otherwise ": {func(context.CancelCauseFunc, *Batch) {}, []error{ErrFailedPrecondition}},
	} {
		t.Run(name, func(t *testing.T) {
			_, target := startFake(t, func(s *serving) error {
				s.say(opened(0, 0))
				return failing(codes.Unavailable, "")
			})
			passed := &fakeTime{}
			client := newClient(t, target, passed.option(), WithResumePolicy(policy))
			ctx, cancel := context.WithCancelCause(within(t))
			defer cancel(nil)
			batch := client.ProcessBatch(ctx, slices.Values(items(1)))
			passed.meanwhile = func() { test.end(cancel, batch) }
			_, err := collect(batch)
			checkIs(t, err, test.wanted...)
			if len(passed.waits) != 1 {
				t.Error(passed.waits)
			}
		})
	}
}

func TestTheDeadlineEndsABatch(t *testing.T) {
	_, target := startFake(t, func(s *serving) error { s.say(opened(0, 0)); return hold(s) })
	client := newClient(t, target)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_, err := collect(client.ProcessBatch(ctx, slices.Values(items(1))))
	checkIs(t, err, ErrDeadlineExceeded, context.DeadlineExceeded)
}

func TestNoTryIsMadeAfterTheDeadline(t *testing.T) {
	_, target := startFake(t, func(s *serving) error {
		s.say(opened(0, 0))
		return failing(codes.Unavailable, "")
	})
	passed := &fakeTime{}
	client := newClient(t, target, passed.option(), WithResumePolicy(ResumePolicy{InitialBackoff: time.Hour, MaxBackoff: time.Hour}))
	_, err := collect(client.ProcessBatch(within(t), slices.Values(items(1))))
	checkIs(t, err, ErrDeadlineExceeded, context.DeadlineExceeded, ErrUnavailable)
	if len(passed.waits) != 0 {
		t.Error(passed.waits)
	}
}

func TestTimeOnAStreamThatShowsNothingNewDoesNotCount(t *testing.T) {
	passed := &fakeTime{}
	_, target := startFake(t,
		func(s *serving) error {
			s.say(opened(0, 0))
			return failing(codes.Unavailable, "")
		},
		func(s *serving) error {
			s.say(opened(0, 0))
			if _, err := s.ids(1); err != nil { // it has seen that this is open
				return err
			}
			passed.mu.Lock()
			passed.moment = passed.moment.Add(time.Hour)
			passed.mu.Unlock()
			return failing(codes.Unavailable, "")
		},
		func(s *serving) error {
			s.say(opened(0, 0), totals(0))
			return nil
		},
	)
	client := newClient(t, target, passed.option(), WithResumePolicy(policy))
	if _, err := collect(client.ProcessBatch(context.Background(), slices.Values(items(1)))); err != nil {
		t.Error(err)
	}
}

// sourceThatFails gives so many items, then an error.
func sourceThatFails(count int, err error) iter.Seq2[WorkItem, error] {
	return func(yield func(WorkItem, error) bool) {
		for _, item := range items(count) {
			if !yield(item, nil) {
				return
			}
		}
		yield(WorkItem{}, err)
	}
}

func TestASourceThatFailsEndsTheBatchWithoutAHalfClose(t *testing.T) {
	ended := make(chan error, 1)
	_, target := startFake(t, func(s *serving) error {
		s.say(opened(0, 0))
		_, err := s.ids(100)
		ended <- err
		return hold(s)
	})
	client := newClient(t, target)
	_, err := collect(client.ProcessBatchFrom(within(t), sourceThatFails(3, io.ErrUnexpectedEOF)))
	if err != io.ErrUnexpectedEOF {
		t.Errorf("%v (%T)", err, err)
	}
	if code := status.Code(<-ended); code != codes.Canceled {
		t.Errorf("the server was told %v", code)
	}
}

func TestLeavingTheLoopCancelsTheStreamWithoutAHalfClose(t *testing.T) {
	ended := make(chan error, 1)
	_, target := startFake(t, func(s *serving) error {
		s.say(opened(0, 0), results(1, 2))
		_, err := s.ids(1 << 30)
		ended <- err
		return nil
	})
	client := newClient(t, target)
	endless := func(yield func(WorkItem) bool) {
		for number := 0; yield(WorkItem{ItemID: fmt.Sprint(number), Prompt: "p"}); number++ {
		}
	}
	batch := client.ProcessBatch(within(t), endless)
	for result, err := range batch.Results() {
		if err != nil || result.Sequence != 1 {
			t.Fatal(result, err)
		}
		break
	}
	if code := status.Code(<-ended); code != codes.Canceled {
		t.Errorf("the server was told %v", code)
	}
	if batch.LastSequence() != 1 || batch.Totals() != nil {
		t.Error(batch.LastSequence(), batch.Totals())
	}
	_, err := collect(batch)
	checkIs(t, err, ErrCanceled)
}

// Nobody ranges over the results: the goroutines that send (TestMain would find it) and that read the
// source end all the same.
func TestABatchThatIsDroppedEndsWithItsContextOrItsClient(t *testing.T) {
	for name, end := range map[string]func(cancel context.CancelFunc, client *Client){
		"context": func(cancel context.CancelFunc, _ *Client) { cancel() },
		"client":  func(_ context.CancelFunc, client *Client) { _ = client.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			_, target := startFake(t, func(s *serving) error {
				s.say(opened(0, 0))
				return hold(s)
			})
			client := newClient(t, target)
			ctx, cancel := context.WithCancel(within(t))
			defer cancel()
			ended := make(chan struct{})
			batch := client.ProcessBatch(ctx, func(yield func(WorkItem) bool) {
				defer close(ended)
				for yield(WorkItem{ItemID: "1", Prompt: "again"}) {
				}
			})
			if _, err := batch.Opened(); err != nil {
				t.Fatal(err)
			}
			end(cancel, client)
			select {
			case <-ended:
			case <-within(t).Done():
				t.Fatal("the source is still read")
			}
		})
	}
}

func TestUnconfirmedItemsAreBounded(t *testing.T) {
	for name, test := range map[string]struct {
		option ClientOption
		most   int64
	}{
		"by count": {WithUnconfirmedLimits(10, 1<<20), 10},
		"by bytes": {WithUnconfirmedLimits(1000, 500), 500 / 10},
	} {
		t.Run(name, func(t *testing.T) {
			var taken atomic.Int64
			source := func(yield func(WorkItem) bool) {
				for taken.Load() < 10_000 && yield(WorkItem{ItemID: fmt.Sprint(taken.Add(1)), Prompt: "p"}) {
				}
			}
			got := make(chan []string, 1)
			_, target := startFake(t, func(s *serving) error {
				s.say(opened(0, 0))
				ids, err := s.ids(5)
				if err != nil {
					return err
				}
				got <- ids
				return hold(s)
			})
			batch := newClient(t, target, test.option).ProcessBatch(within(t), source)
			if _, err := batch.Opened(); err != nil {
				t.Fatal(err)
			}
			<-got
			for range 100 { // it would take ever more
				time.Sleep(time.Millisecond)
				if taken.Load() > test.most+1 { // the one that waits for room was taken too
					t.Fatalf("%d taken", taken.Load())
				}
			}
			batch.Cancel()
		})
	}
}

func TestASourceThatBlocksHoldsNothingBack(t *testing.T) {
	got := make(chan []string)
	_, target := startFake(t, func(s *serving) error {
		s.say(opened(0, 0))
		for range 2 {
			ids, err := s.ids(1)
			if err != nil {
				return err
			}
			got <- ids
		}
		s.say(accepted(2, 2), results(1, 2), totals(2))
		return nil
	})
	client := newClient(t, target)
	source := func(yield func(WorkItem) bool) {
		for _, item := range items(2) {
			if !yield(item) {
				return
			}
			if ids := <-got; !slices.Equal(ids, []string{item.ItemID}) { // before the source goes on
				t.Error(ids)
			}
		}
	}
	results, err := collect(client.ProcessBatch(within(t), source))
	if err != nil {
		t.Fatal(err)
	}
	checkSequences(t, results, 2)
}

func TestAnItemThatIsTooLargeIsNotSent(t *testing.T) {
	large := WorkItem{ItemID: "large", Prompt: strings.Repeat("x", 2000)}
	for name, test := range map[string]struct {
		mine   int
		server int64
	}{"for the client": {1000, 0}, "for the server": {1 << 20, 1000}} {
		t.Run(name, func(t *testing.T) {
			sent := make(chan []string, 1)
			_, target := startFake(t, func(s *serving) error {
				first := opened(0, 0)
				first.GetOpened().MaxMessageBytes = test.server
				s.say(first)
				ids, _ := s.ids(100)
				sent <- ids
				return nil
			})
			client := newClient(t, target, WithMaxMessageBytes(test.mine))
			_, err := collect(client.ProcessBatch(within(t), slices.Values([]WorkItem{{ItemID: "1", Prompt: "p"}, large})))
			var typed *MessageTooLargeError
			if !errors.As(err, &typed) || typed.ItemID != "large" || typed.Size < 2000 || typed.Limit != 1000 {
				t.Fatalf("%v (%T)", err, err)
			}
			checkIs(t, err, ErrMessageTooLarge, ErrResourceExhausted)
			if ids := <-sent; slices.Contains(ids, "large") {
				t.Error("it was sent")
			}
		})
	}
	client := newClient(t, "127.0.0.1:1", WithMaxMessageBytes(1000))
	_, err := client.ProcessItem(within(t), large)
	checkIs(t, err, ErrMessageTooLarge)
}

func TestACallWithAnIdempotencyKeyIsMadeAgain(t *testing.T) {
	fake, target := startFake(t)
	fake.item = func(call int, request *batchllmv1.ProcessItemRequest) (*batchllmv1.ProcessItemResponse, error) {
		if call < 3 {
			return nil, failing(codes.Unavailable, "")
		}
		return &batchllmv1.ProcessItemResponse{Result: &batchllmv1.WorkItemResult{
			ItemId: request.GetIdempotencyKey(), Outcome: &batchllmv1.WorkItemResult_Output{Output: &batchllmv1.Output{Text: "t"}},
		}}, nil
	}
	passed := &fakeTime{}
	client := newClient(t, target, passed.option(), WithResumePolicy(policy))
	result, err := client.ProcessItem(within(t), WorkItem{ItemID: "1"}, WithIdempotencyKey("order-7"))
	if err != nil || result.ItemID != "order-7" || result.Text != "t" || !slices.Equal(passed.waits, seconds(1, 2)) {
		t.Error(result, err, passed.waits)
	}
	fake.calls = 0
	_, err = client.ProcessItem(within(t), WorkItem{ItemID: "1"})
	checkIs(t, err, ErrUnavailable)
	fake.calls = 0
	passed.meanwhile = func() { _ = client.Close() }
	_, err = client.ProcessItem(within(t), WorkItem{ItemID: "1"}, WithIdempotencyKey("order-7"))
	checkIs(t, err, ErrClosed)
}

func TestWhatCannotBeSentIsRefused(t *testing.T) {
	client := newClient(t, "127.0.0.1:1")
	bad := "\xff"
	for name, err := range map[string]error{
		"an item's text": func() error {
			_, err := client.ProcessItem(within(t), WorkItem{ItemID: "1", Prompt: bad})
			return err
		}(),
		"a key": func() error {
			_, err := client.ProcessItem(within(t), WorkItem{ItemID: "1"}, WithIdempotencyKey(bad))
			return err
		}(),
		"a batch's id":   second(collect(client.ProcessBatch(within(t), slices.Values(items(1)), WithBatchID(bad)))),
		"a resumed one":  second(collect(client.ProcessBatch(within(t), slices.Values(items(1)), WithResumeAfter(3)))),
		"a large number": second(collect(client.ProcessBatch(within(t), slices.Values(items(1)), WithMaxConcurrency(1<<40)))),
		"leaving": func() error {
			_, err := client.ProcessBatch(within(t), slices.Values(items(1))).Leave()
			return err
		}(),
	} {
		var typed *Error
		if err == nil || errors.As(err, &typed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, option := range map[string]ClientOption{
		"items":   WithFrameLimits(0, 1),
		"bytes":   WithMaxMessageBytes(-1),
		"timeout": WithTimeout(0),
	} {
		if _, err := New("127.0.0.1:1", option); err == nil {
			t.Error(name)
		}
	}
}

func TestTargets(t *testing.T) {
	for target, problem := range map[string]string{
		"":                    "the target must not be empty: give host:port or unix:PATH, e.g. 127.0.0.1:50051",
		"unix:":               `the target must have a path after "unix:": give host:port or unix:PATH`,
		"unix://":             `the target must have a path after "unix://": give host:port or unix:PATH`,
		"127.0.0.1:65536":     "the target's port must be at most 65535, not 65536 (127.0.0.1:65536)",
		"dns:///[::1]:999999": "the target's port must be at most 65535, not 999999 (dns:///[::1]:999999)",
	} {
		if _, err := New(target); err == nil || !strings.HasPrefix(err.Error(), "batchllm: "+problem) {
			t.Errorf("%q: %v", target, err)
		}
	}
	for _, target := range []string{"127.0.0.1:65535", "localhost", "99999", "unix:/tmp/a:99999", "unix-abstract:a:99999"} {
		client, err := New(target)
		if err != nil {
			t.Errorf("%q: %v", target, err)
			continue
		}
		_ = client.Close()
	}
}

func TestTextThatIsNoUTF8IsToldByItemAndField(t *testing.T) {
	for field, item := range map[string]WorkItem{
		"ItemID":   {ItemID: "1\xff", Prompt: "hi"},
		"Prompt":   {ItemID: "1", Prompt: "\xff"},
		"Strategy": {ItemID: "1", Prompt: "hi", Strategy: "\xff"},
	} {
		want := fmt.Sprintf("batchllm: item %q: %s must be valid UTF-8", item.ItemID, field)
		_, err := newClient(t, "127.0.0.1:1").ProcessItem(within(t), item)
		if err == nil || err.Error() != want {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func second(_ []*Result, err error) error { return err }

func TestFramesOfAKindUnknownHereArePassedOver(t *testing.T) {
	_, target := startFake(t, func(s *serving) error {
		s.say(&reply{}, opened(0, 0), &reply{})
		if _, err := s.ids(2); err != nil {
			return err
		}
		s.say(opened(0, 0), progress()) // opened once more: nothing is sent again
		if ids, err := s.ids(1); err != io.EOF {
			return failing(codes.DataLoss, Reason(fmt.Sprint(ids, err)))
		}
		s.say(results(1, 2), totals(2))
		return nil
	})
	reported := make(chan struct{})
	source := func(yield func(WorkItem) bool) {
		slices.Values(items(2))(yield)
		<-reported
	}
	batch := newClient(t, target).ProcessBatch(within(t), source, WithProgress(func(Progress) { close(reported) }))
	results, err := collect(batch)
	if err != nil || len(results) != 2 {
		t.Error(results, err)
	}
}

func TestWhatIsNewCountsAnew(t *testing.T) {
	for name, first := range map[string]*reply{"results": results(1, 1), "items held": accepted(1, 0)} {
		t.Run(name, func(t *testing.T) {
			breaks := func(frames ...*reply) func(*serving) error {
				return func(s *serving) error {
					s.say(frames...)
					return failing(codes.Unavailable, "")
				}
			}
			for between, streams := range map[*reply]int{first: 5, progress(): 3} {
				fake, target := startFake(t, breaks(opened(0, 0)), breaks(), breaks(opened(0, 0), between), breaks(), breaks())
				client := newClient(t, target, (&fakeTime{}).option(), WithResumePolicy(ResumePolicy{MaxTries: 2}))
				_, err := collect(client.ProcessBatch(within(t), slices.Values(items(1))))
				checkIs(t, err, ErrUnavailable)
				if count := len(fake.openings()); count != streams {
					t.Errorf("%d streams, not %d", count, streams)
				}
			}
		})
	}
}

func TestLeavingWaitsUntilTheSidecarKnowsThatAllIsThere(t *testing.T) {
	fake, target := startFake(t, func(s *serving) error {
		s.say(opened(0, 0))
		if _, err := s.ids(100); err != io.EOF {
			return err
		}
		s.say(accepted(2, 2))
		return hold(s)
	})
	fake.states = []batchllmv1.BatchState{
		batchllmv1.BatchState_BATCH_STATE_OPEN, batchllmv1.BatchState_BATCH_STATE_OPEN, batchllmv1.BatchState_BATCH_STATE_SEALED,
	}
	passed := &fakeTime{}
	client := newClient(t, target, passed.option())
	held, err := client.ProcessBatch(within(t), slices.Values(items(2)), WithDetach()).Leave()
	if held != 2 || err != nil || !slices.Equal(passed.waits, []time.Duration{sealPoll, sealPoll}) {
		t.Error(held, err, passed.waits)
	}
}
