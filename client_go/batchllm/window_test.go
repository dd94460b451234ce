package batchllm

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	batchllmv1 "github.com/batch-llm/batch-llm/client_go/batchllm/v1"
	"google.golang.org/protobuf/proto"
)

func entryOf(t *testing.T, item WorkItem) entry {
	t.Helper()
	made, err := encode(item)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func TestFramesKeepWithinTheLimits(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	w := window{limits: limits{frameItems: 8, frameBytes: 600, messageBytes: 5000, unconfirmedItems: 40, unconfirmedBytes: 4000}}
	var confirmed int64
	for number := range 5000 {
		added := entryOf(t, WorkItem{ItemID: "i", Prompt: strings.Repeat("x", random.IntN(900))})
		for !w.fits(added) {
			if w.waiting() == 0 {
				confirmed = min(confirmed+1+random.Int64N(4), w.confirmed+int64(w.sent))
				if err := w.confirm(confirmed); err != nil {
					t.Fatal(err)
				}
				continue
			}
			frame := w.take()
			count, size := len(frame.GetItems().GetItems()), proto.Size(frame)
			if count > 8 || (count > 1 && size > 600) || size > 5000 {
				t.Fatalf("a frame of %d items and %d bytes", count, size)
			}
		}
		w.add(added)
		if len(w.entries) > 40 || (len(w.entries) > 1 && w.bytes > 4000) {
			t.Fatalf("%d items, %d bytes unconfirmed", len(w.entries), w.bytes)
		}
		if number%97 == 0 {
			w.rewind()
			confirmed = 0
		}
		total, waiting := 0, 0
		for place, held := range w.entries {
			total += held.cost
			if place >= w.sent {
				waiting += held.cost
			}
		}
		if total != w.bytes || waiting != w.waitingBytes {
			t.Fatalf("counted %d and %d bytes, there are %d and %d", w.bytes, w.waitingBytes, total, waiting)
		}
	}
}

func TestWhatIsNotConfirmedIsSentAgain(t *testing.T) {
	w := window{limits: limits{frameItems: 2, frameBytes: 1000, messageBytes: 1000, unconfirmedItems: 9, unconfirmedBytes: 9000}}
	for _, item := range items(5) {
		w.add(entryOf(t, item))
	}
	taken := func() (ids string) {
		for _, item := range w.take().GetItems().GetItems() {
			ids += item.GetItemId()
		}
		return ids
	}
	if got := taken() + "," + taken(); got != "01,23" {
		t.Fatal(got)
	}
	if err := w.confirm(1); err != nil {
		t.Fatal(err)
	}
	w.rewind()
	if got := taken() + "," + taken(); got != "12,34" {
		t.Fatal(got)
	}
	if err := w.confirm(5); !errors.Is(err, ErrUnexpected) {
		t.Error(err)
	}
	if err := w.confirm(4); err != nil || len(w.entries) != 0 || w.bytes != 0 {
		t.Error(err, w)
	}
}

func TestAFramesSizeIsNeverMoreThanItsItemsCost(t *testing.T) {
	for _, length := range []int{0, 1, 100, 127, 128, 16383, 16384, 3 << 20} {
		added := entryOf(t, WorkItem{ItemID: "i", Prompt: strings.Repeat("x", length)})
		frame := &batchllmv1.ProcessBatchRequest{Frame: &batchllmv1.ProcessBatchRequest_Items{
			Items: &batchllmv1.WorkItems{Items: []*batchllmv1.WorkItem{added.item}},
		}}
		if size := proto.Size(frame); size > added.cost+nestingBytes {
			t.Errorf("%d bytes, counted as %d", size, added.cost+nestingBytes)
		}
	}
}

func TestLimitsAreClampedToTheServers(t *testing.T) {
	mine := limits{frameItems: 1, frameBytes: 500, messageBytes: 1000, unconfirmedItems: 1, unconfirmedBytes: 1}
	for server, expected := range map[int64][2]int{0: {500, 1000}, 2000: {500, 1000}, 800: {500, 800}, 300: {300, 300}} {
		if got := mine.within(server); got.frameBytes != expected[0] || got.messageBytes != expected[1] {
			t.Errorf("%d: %+v", server, got)
		}
	}
}
