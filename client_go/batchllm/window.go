package batchllm

import (
	"fmt"
	"slices"

	batchllmv1 "github.com/batch-llm/batch-llm/client_go/batchllm/v1"
	"google.golang.org/protobuf/proto"
)

// nestingBytes is what a message inside another costs: one byte of tag and at most five of length. An item lies in
// WorkItems, which lies in the request.
const nestingBytes = 6

// limits of what a frame may hold, what a message may weigh in bytes, and how much may be unconfirmed.
type limits struct {
	frameItems       int
	frameBytes       int
	messageBytes     int
	unconfirmedItems int
	unconfirmedBytes int
}

func (l limits) check() error {
	for _, limit := range []struct {
		option string
		value  int
	}{
		{"WithFrameLimits: items", l.frameItems},
		{"WithFrameLimits: bytes", l.frameBytes},
		{"WithMaxMessageBytes", l.messageBytes},
		{"WithUnconfirmedLimits: items", l.unconfirmedItems},
		{"WithUnconfirmedLimits: bytes", l.unconfirmedBytes},
	} {
		if limit.value < 1 {
			return fmt.Errorf("batchllm: %s must be at least 1, not %d", limit.option, limit.value)
		}
	}
	return nil
}

// within clamps to what the server takes in a message; 0: it did not say.
func (l limits) within(serverBytes int64) limits {
	if serverBytes > 0 && serverBytes < int64(l.messageBytes) {
		l.messageBytes = int(serverBytes)
	}
	l.frameBytes = min(l.frameBytes, l.messageBytes)
	return l
}

// entry is an item and what it costs in a frame, in bytes.
type entry struct {
	item *batchllmv1.WorkItem
	cost int
}

// encode makes an entry of an item. An error: a text is no UTF-8.
func encode(item WorkItem) (entry, error) {
	message, err := item.message()
	if err != nil {
		return entry{}, err
	}
	return entry{item: message, cost: proto.Size(message) + nestingBytes}, nil
}

// check refuses an item if a frame of it alone would exceed the message limit.
func (e entry) check(limits limits) error {
	if size := e.cost + nestingBytes; size > limits.messageBytes {
		return &MessageTooLargeError{ItemID: e.item.GetItemId(), Size: size, Limit: limits.messageBytes}
	}
	return nil
}

// window has items in the order of their source, from the first unconfirmed one to the last one read: first those that
// were sent, then those that wait. What waits is at most a frame, unless a new stream has put back what was sent on the
// former.
type window struct {
	limits       limits
	entries      []entry
	sent         int
	bytes        int
	waitingBytes int
	confirmed    int64
}

// waiting is how many are to be sent.
func (w *window) waiting() int { return len(w.entries) - w.sent }

// fits tells whether an item may be added; an empty window takes any.
func (w *window) fits(added entry) bool {
	if waiting := w.waiting(); waiting > 0 &&
		(waiting >= w.limits.frameItems || nestingBytes+w.waitingBytes+added.cost > w.limits.frameBytes) {
		return false
	}
	return len(w.entries) == 0 ||
		(len(w.entries) < w.limits.unconfirmedItems && w.bytes+added.cost <= w.limits.unconfirmedBytes)
}

// add adds an item that fits.
func (w *window) add(added entry) {
	w.entries = append(w.entries, added)
	w.bytes += added.cost
	w.waitingBytes += added.cost
}

// take makes the next frame of what waits. Its items stay here until they are confirmed.
func (w *window) take() *batchllmv1.ProcessBatchRequest {
	frame, size := make([]*batchllmv1.WorkItem, 0, min(w.waiting(), w.limits.frameItems)), nestingBytes
	for _, next := range w.entries[w.sent:] {
		if len(frame) > 0 && (len(frame) >= w.limits.frameItems || size+next.cost > w.limits.frameBytes) {
			break
		}
		frame = append(frame, next.item)
		size += next.cost
	}
	w.sent += len(frame)
	w.waitingBytes -= size - nestingBytes
	return &batchllmv1.ProcessBatchRequest{
		Frame: &batchllmv1.ProcessBatchRequest_Items{Items: &batchllmv1.WorkItems{Items: frame}},
	}
}

// confirm lets go of the first so many items of the present stream. An error: so many were never sent.
func (w *window) confirm(received int64) error {
	count := received - w.confirmed
	if count > int64(w.sent) {
		return unexpected("the server confirmed %d items of a stream that has %d", received, w.confirmed+int64(w.sent))
	}
	if count <= 0 {
		return nil
	}
	for _, confirmed := range w.entries[:count] {
		w.bytes -= confirmed.cost
	}
	w.entries = slices.Delete(w.entries, 0, int(count))
	w.sent -= int(count)
	w.confirmed = received
	return nil
}

// rewind begins a new stream: what was not confirmed is to be sent again.
func (w *window) rewind() {
	w.sent, w.confirmed, w.waitingBytes = 0, 0, w.bytes
}
