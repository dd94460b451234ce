package batchllm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"
)

// leastAsked: whatever a server asks for, it is counted as so much at least; what is bounded must come to an end.
const leastAsked = time.Second

// isResumable tells whether a batch that was open, or a call with an idempotency key, may go on after an error. Every
// code but these is an answer.
func isResumable(err *Error) bool {
	switch err.Code {
	case codes.Unavailable: // the connection broke, nobody answers, the sidecar drains, its journal cannot be written
		return true
	case codes.Internal, codes.Unknown, codes.Canceled:
		// From a connection that broke or from a proxy (RST_STREAM), not from a sidecar, nor from closing the client.
		return err.Reason == "" && err.kind != ErrClosed
	}
	// The sidecar has not noticed yet that the stream before is gone; or somebody is making room.
	return err.Reason == ReasonBatchInUse || err.Reason == ReasonJournalFull
}

// ResumePolicy bounds how long a client goes on trying after a connection broke. All bounds count anew when there is
// progress. A field that is 0 has its default; a negative one stands for none.
type ResumePolicy struct {
	// MaxTries: at most so many tries. Default 10.
	MaxTries int
	// MaxAway: no further try after so long without a stream, waits that the sidecar asked for not counted. Default 60 s.
	MaxAway time.Duration
	// MaxAsked: at most so much waiting that the sidecar asked for (RetryInfo); such waits are no tries. Default 300 s.
	MaxAsked time.Duration
	// InitialBackoff is the most that is waited before the first try; twice as much before each one that follows.
	// Default 200 ms.
	InitialBackoff time.Duration
	// MaxBackoff is the most that is waited before any try. Default 15 s. Each wait is drawn evenly from 0 to its most.
	MaxBackoff time.Duration
}

// withDefaults fills in what is 0 and makes what is negative 0.
func (p ResumePolicy) withDefaults() ResumePolicy {
	return ResumePolicy{
		MaxTries:       defaulted(p.MaxTries, 10),
		MaxAway:        defaulted(p.MaxAway, time.Minute),
		MaxAsked:       defaulted(p.MaxAsked, 5*time.Minute),
		InitialBackoff: defaulted(p.InitialBackoff, 200*time.Millisecond),
		MaxBackoff:     defaulted(p.MaxBackoff, 15*time.Second),
	}
}

func defaulted[T int | time.Duration](value, standard T) T {
	if value == 0 {
		return standard
	}
	return max(value, 0)
}

// clock is time and randomness; tests bring their own.
type clock struct {
	now    func() time.Time
	random func() float64                                          // from [0, 1)
	wait   func(ctx context.Context, duration time.Duration) error // an error: the context has ended
}

func systemClock() clock {
	return clock{now: time.Now, random: rand.Float64, wait: wait}
}

func wait(ctx context.Context, duration time.Duration) error {
	timer := time.NewTimer(duration)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// retries counts the tries of one batch or call.
type retries struct {
	policy   *ResumePolicy // nil: there is no other try
	deadline time.Time     // when the caller's time is over; zero: never
	clock    clock

	tries     int
	goneSince time.Time
	away      time.Duration
	asked     time.Duration
}

// progress counts anew: something new has come.
func (r *retries) progress() { r.tries, r.away, r.asked = 0, 0, 0 }

// connected notes that there is a stream again.
func (r *retries) connected() {
	if !r.goneSince.IsZero() {
		r.away += r.clock.now().Sub(r.goneSince)
		r.goneSince = time.Time{}
	}
}

// delay says how long to wait before the next try. An error: there is to be none.
func (r *retries) delay(failure error) (time.Duration, error) {
	var err *Error
	if r.policy == nil || !errors.As(failure, &err) || !isResumable(err) {
		return 0, failure
	}
	now := r.clock.now()
	if r.goneSince.IsZero() {
		r.goneSince = now
	}
	if r.away+now.Sub(r.goneSince)-r.asked >= r.policy.MaxAway {
		return 0, failure
	}
	switch {
	case err.RetryAfter > 0:
		if r.asked+err.RetryAfter > r.policy.MaxAsked {
			return 0, failure
		}
		r.asked += max(err.RetryAfter, leastAsked)
	case r.tries >= r.policy.MaxTries:
		return 0, failure
	default:
		r.tries++
	}
	most := min(r.policy.InitialBackoff, r.policy.MaxBackoff)
	for try := 1; try < r.tries && most < r.policy.MaxBackoff; try++ {
		most = min(2*most, r.policy.MaxBackoff)
	}
	delay := max(err.RetryAfter, 0) + time.Duration(r.clock.random()*float64(most))
	if !r.deadline.IsZero() && !now.Add(delay).Before(r.deadline) {
		return 0, &Error{
			Code: codes.DeadlineExceeded,
			Message: fmt.Sprintf("the time runs out before the next try, in %v; the last one: %v",
				delay.Round(time.Millisecond), failure),
			cause: errors.Join(context.DeadlineExceeded, failure),
		}
	}
	return delay, nil
}
