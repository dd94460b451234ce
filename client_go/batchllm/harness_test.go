package batchllm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	batchllmv1 "github.com/batch-llm/batch-llm/client_go/batchllm/v1"
	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
)

// bound of every wait: nothing takes as long, unless something is broken.
const bound = time.Minute

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// eventually looks until there is something.
func eventually(t testing.TB, what string, look func() bool) {
	t.Helper()
	for end := time.Now().Add(bound); !look(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", bound, what)
		}
	}
}

// within gives a context that ends when something is broken.
func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	t.Cleanup(cancel)
	return ctx
}

func newClient(t testing.TB, target string, options ...ClientOption) *Client {
	t.Helper()
	client, err := New(target, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
	return client
}

func items(count int) []WorkItem {
	made := make([]WorkItem, count)
	for number := range made {
		made[number] = WorkItem{ItemID: fmt.Sprint(number), Prompt: fmt.Sprintf("prompt %d", number)}
	}
	return made
}

// collect ranges over a batch's results.
func collect(batch *Batch) (results []*Result, err error) {
	for result, err := range batch.Results() {
		if err != nil {
			return results, err
		}
		results = append(results, result)
	}
	return results, nil
}

// sequences checks that results follow each other, from 1 to count.
func checkSequences(t testing.TB, results []*Result, count int) {
	t.Helper()
	for place, result := range results {
		if result.Sequence != int64(place+1) {
			t.Fatalf("result %d has sequence %d", place, result.Sequence)
		}
	}
	if len(results) != count {
		t.Fatalf("%d results, not %d", len(results), count)
	}
}

// sidecar is a real one, in a process of its own.
type sidecar struct {
	t       testing.TB
	target  string
	state   string
	log     string
	process *exec.Cmd
}

// startSidecar starts one that keeps its state, and ends it with the test.
func startSidecar(t testing.TB, listen string) *sidecar {
	t.Helper()
	made := &sidecar{t: t, target: listen, state: t.TempDir(), log: filepath.Join(t.TempDir(), "log")}
	made.start()
	t.Cleanup(made.kill)
	return made
}

func program(t testing.TB) string {
	t.Helper()
	if named := os.Getenv("BATCH_LLM_SIDECAR"); named != "" {
		return named
	}
	found, err := exec.LookPath("batch-llm-sidecar")
	if err != nil {
		words := "batch-llm-sidecar is not in PATH: install it, or name it in BATCH_LLM_SIDECAR"
		if os.Getenv("CI") != "" {
			t.Fatal(words)
		}
		t.Skip(words)
	}
	return found
}

var servingOn = regexp.MustCompile(`serving on (\S+)`)

// start starts it where it was before, or where it is to listen first.
func (s *sidecar) start() {
	s.t.Helper()
	log, err := os.Create(s.log)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	s.process = exec.Command(program(s.t), "serve", "--listen", s.target, "--state-dir", s.state)
	s.process.Stdout, s.process.Stderr = log, log
	if err := s.process.Start(); err != nil {
		s.t.Fatal(err)
	}
	eventually(s.t, "the sidecar serves", func() bool {
		said, err := os.ReadFile(s.log)
		if err != nil {
			s.t.Fatal(err)
		}
		if found := servingOn.FindSubmatch(said); found != nil {
			s.target = string(found[1])
			return true
		}
		if err := s.process.Process.Signal(syscall.Signal(0)); err != nil {
			s.t.Fatalf("the sidecar ended: %s", said)
		}
		return false
	})
}

func (s *sidecar) kill() {
	_ = s.process.Process.Kill()
	_ = s.process.Wait()
}

// frame makes a server's frame.
type reply = batchllmv1.ProcessBatchResponse

func opened(held, last int64) *reply {
	return &reply{Frame: &batchllmv1.ProcessBatchResponse_Opened{
		Opened: &batchllmv1.BatchOpened{BatchId: "b", Items: held, LastSequence: last, Durable: true},
	}}
}

func accepted(held, received int64) *reply {
	return &reply{Frame: &batchllmv1.ProcessBatchResponse_Accepted{
		Accepted: &batchllmv1.ItemsAccepted{Items: held, Received: received},
	}}
}

func results(first, last int64) *reply {
	frame := &batchllmv1.WorkItemResults{}
	for sequence := first; sequence <= last; sequence++ {
		frame.Results = append(frame.Results, &batchllmv1.WorkItemResult{
			ItemId: fmt.Sprint(sequence - 1), Sequence: sequence,
			Outcome: &batchllmv1.WorkItemResult_Output{Output: &batchllmv1.Output{Text: "done"}},
		})
	}
	return &reply{Frame: &batchllmv1.ProcessBatchResponse_Results{Results: frame}}
}

func progress() *reply {
	return &reply{Frame: &batchllmv1.ProcessBatchResponse_Progress{Progress: &batchllmv1.BatchProgress{}}}
}

func totals(count int64) *reply {
	return &reply{Frame: &batchllmv1.ProcessBatchResponse_BatchResult{
		BatchResult: &batchllmv1.BatchResult{BatchId: "b", TotalItems: count, Succeeded: count},
	}}
}

// failing makes a server's error.
func failing(code codes.Code, reason Reason, details ...protoadapt.MessageV1) error {
	made := status.New(code, "scripted")
	if reason != "" {
		details = append(details, &errdetails.ErrorInfo{Reason: string(reason), Domain: domain})
	}
	with, err := made.WithDetails(details...)
	if err != nil {
		panic(err)
	}
	return with.Err()
}

func retryAfter(delay time.Duration) protoadapt.MessageV1 {
	return &errdetails.RetryInfo{RetryDelay: durationpb.New(delay)}
}

// serving is one stream of a scripted server.
type serving struct {
	grpc.BidiStreamingServer[batchllmv1.ProcessBatchRequest, batchllmv1.ProcessBatchResponse]
	opening *batchllmv1.OpenBatch
}

func (s *serving) say(frames ...*reply) {
	for _, frame := range frames {
		_ = s.Send(frame) // the client may be gone, which the script's end shows
	}
}

// ids reads items until there are so many, or the client has half-closed (io.EOF) or gone.
func (s *serving) ids(count int) (ids []string, err error) {
	for len(ids) < count {
		frame, err := s.Recv()
		if err != nil {
			return ids, err
		}
		for _, item := range frame.GetItems().GetItems() {
			ids = append(ids, item.GetItemId())
		}
	}
	return ids, nil
}

// script is what a server does on its first, second, … stream.
type script []func(*serving) error

// fake is a real gRPC server that does what a script says.
type fake struct {
	batchllmv1.UnimplementedBatchServiceServer
	mu      sync.Mutex
	script  script
	streams []*batchllmv1.OpenBatch
	item    func(call int, request *batchllmv1.ProcessItemRequest) (*batchllmv1.ProcessItemResponse, error)
	calls   int
	states  []batchllmv1.BatchState
}

func (f *fake) ProcessBatch(on batchllmv1.BatchService_ProcessBatchServer) error {
	first, err := on.Recv()
	if err != nil {
		return err
	}
	f.mu.Lock()
	number := len(f.streams)
	f.streams = append(f.streams, first.GetOpen())
	f.mu.Unlock()
	if number >= len(f.script) {
		return status.Error(codes.FailedPrecondition, "the script has no further stream")
	}
	return f.script[number](&serving{on, first.GetOpen()})
}

func (f *fake) ProcessItem(_ context.Context, request *batchllmv1.ProcessItemRequest) (*batchllmv1.ProcessItemResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	return f.item(f.calls, request)
}

func (f *fake) GetBatch(context.Context, *batchllmv1.GetBatchRequest) (*batchllmv1.GetBatchResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	state := f.states[0]
	f.states = f.states[1:]
	return &batchllmv1.GetBatchResponse{Batch: &batchllmv1.BatchInfo{State: state}}, nil
}

// openings gives what streams were opened with.
func (f *fake) openings() []*batchllmv1.OpenBatch {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.streams)
}

func startFake(t testing.TB, does ...func(*serving) error) (*fake, string) {
	t.Helper()
	made := &fake{script: does}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	batchllmv1.RegisterBatchServiceServer(server, made)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return made, listener.Addr().String()
}

// fakeTime is a clock whose waits take no time.
type fakeTime struct {
	mu        sync.Mutex
	moment    time.Time
	waits     []time.Duration
	meanwhile func()
}

func (f *fakeTime) now() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.moment
}

func (f *fakeTime) wait(ctx context.Context, duration time.Duration) error {
	f.mu.Lock()
	f.moment = f.moment.Add(duration)
	f.waits = append(f.waits, duration)
	f.mu.Unlock()
	if f.meanwhile != nil {
		f.meanwhile()
	}
	return ctx.Err()
}

// option gives the client this clock, which always draws the most.
func (f *fakeTime) option() ClientOption {
	f.moment = time.Now() // deadlines are those of contexts
	return func(o *clientOptions) {
		o.clock = clock{now: f.now, random: func() float64 { return 1 }, wait: f.wait}
	}
}

func checkIs(t testing.TB, err error, wanted ...error) {
	t.Helper()
	for _, want := range wanted {
		if !errors.Is(err, want) {
			t.Errorf("%v (%T) is no %v", err, err, want)
		}
	}
}

// hold waits until the client has gone.
func hold(s *serving) error {
	<-s.Context().Done()
	return s.Context().Err()
}
