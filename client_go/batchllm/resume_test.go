package batchllm

import (
	"errors"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
)

var errGone = &Error{Code: codes.Unavailable, Message: "gone"}

func newRetries(moment *time.Time, drawn float64, policy ResumePolicy) *retries {
	policy = policy.withDefaults()
	return &retries{policy: &policy, clock: clock{
		now:    func() time.Time { return *moment },
		random: func() float64 { return drawn },
	}}
}

// delays until it gives up, each waited for.
func delays(r *retries, moment *time.Time, failure error) (all []time.Duration) {
	for {
		delay, err := r.delay(failure)
		if err != nil {
			return all
		}
		*moment = moment.Add(delay)
		all = append(all, delay)
	}
}

func seconds(numbers ...float64) (all []time.Duration) {
	for _, number := range numbers {
		all = append(all, time.Duration(number*float64(time.Second)))
	}
	return all
}

func TestWhatIsResumable(t *testing.T) {
	for _, test := range []struct {
		code     codes.Code
		reason   Reason
		expected bool
	}{
		{codes.Unavailable, "", true},
		{codes.Unavailable, ReasonServerDraining, true},
		{codes.Unavailable, ReasonJournalUnavailable, true},
		{codes.Aborted, ReasonBatchInUse, true},
		{codes.Aborted, "", false},
		{codes.ResourceExhausted, ReasonJournalFull, true},
		{codes.ResourceExhausted, "", false},
		{codes.Internal, "", true},
		{codes.Internal, ReasonInternal, false},
		{codes.Unknown, "", true},
		{codes.Canceled, "", true},
		{codes.InvalidArgument, ReasonInvalidField, false},
		{codes.NotFound, ReasonStrategyNotFound, false},
		{codes.DeadlineExceeded, "", false},
		{codes.DataLoss, "", false},
	} {
		if isResumable(&Error{Code: test.code, Reason: test.reason}) != test.expected {
			t.Errorf("%v %s: resumable should be %v", test.code, test.reason, test.expected)
		}
	}
	if isResumable(closed("here").(*Error)) {
		t.Error("a client that is closed opens no stream")
	}
}

func TestDelays(t *testing.T) {
	busy := &Error{Code: codes.Unavailable, RetryAfter: 40 * time.Second}
	hasty := &Error{Code: codes.Unavailable, RetryAfter: time.Nanosecond}
	for name, test := range map[string]struct {
		policy   ResumePolicy
		drawn    float64
		failure  error
		expected []time.Duration
	}{
		"they double up to the bound": {
			ResumePolicy{MaxTries: 6, InitialBackoff: time.Second, MaxBackoff: 8 * time.Second}, 1, errGone,
			seconds(1, 2, 4, 8, 8, 8),
		},
		"they are drawn": {
			ResumePolicy{MaxTries: 3, InitialBackoff: time.Second}, 0.25, errGone, seconds(0.25, 0.5, 1),
		},
		"the first is bounded too": {
			ResumePolicy{MaxTries: 2, InitialBackoff: time.Minute, MaxBackoff: time.Second}, 1, errGone, seconds(1, 1),
		},
		"negative: none": {ResumePolicy{MaxTries: 2, InitialBackoff: -1}, 1, errGone, seconds(0, 0)},
		"time away is bounded": {
			ResumePolicy{MaxTries: 9, MaxAway: 6 * time.Second, InitialBackoff: 4 * time.Second}, 1, errGone, seconds(4, 8),
		},
		"what is asked for is a floor, counted apart": {
			ResumePolicy{MaxTries: 1, MaxAway: 10 * time.Second, MaxAsked: 100 * time.Second, InitialBackoff: time.Second},
			0.5, busy, seconds(40.5, 40.5),
		},
		"next to nothing asked for is bounded": {
			ResumePolicy{MaxAsked: 3 * time.Second}, 0, hasty, []time.Duration{1, 1, 1},
		},
		"no tries":                 {ResumePolicy{MaxTries: -1}, 1, errGone, nil},
		"an answer":                {ResumePolicy{}, 1, &Error{Code: codes.NotFound}, nil},
		"an error of the language": {ResumePolicy{}, 1, errors.New("no UTF-8"), nil},
	} {
		t.Run(name, func(t *testing.T) {
			moment := time.Unix(1e9, 0)
			if got := delays(newRetries(&moment, test.drawn, test.policy), &moment, test.failure); !slices.Equal(got, test.expected) {
				t.Errorf("%v, not %v", got, test.expected)
			}
		})
	}
}

func TestDefaultPolicy(t *testing.T) {
	moment := time.Unix(1e9, 0)
	expected := seconds(0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 15, 15, 15)
	if got := delays(newRetries(&moment, 1, ResumePolicy{}), &moment, errGone); !slices.Equal(got, expected) {
		t.Errorf("%v, not %v", got, expected)
	}
}

func TestProgressCountsAnew(t *testing.T) {
	moment := time.Unix(1e9, 0)
	retries := newRetries(&moment, 1, ResumePolicy{MaxTries: 2, InitialBackoff: time.Second})
	for _, step := range []struct {
		then     func()
		expected []time.Duration
	}{{func() {}, seconds(1, 2)}, {retries.connected, nil}, {retries.progress, seconds(1, 2)}} {
		step.then()
		if got := delays(retries, &moment, errGone); !slices.Equal(got, step.expected) {
			t.Errorf("%v, not %v", got, step.expected)
		}
	}
}

func TestTimeOnAStreamDoesNotCount(t *testing.T) {
	moment := time.Unix(1e9, 0)
	retries := newRetries(&moment, 1, ResumePolicy{MaxTries: 100, MaxAway: 10 * time.Second, InitialBackoff: 4 * time.Second})
	for _, expected := range seconds(4, 8) {
		delay, err := retries.delay(errGone)
		if err != nil || delay != expected {
			t.Fatal(delay, err)
		}
		moment = moment.Add(delay)
		retries.connected()
		moment = moment.Add(time.Hour) // a long call to a model, with nothing to show meanwhile
	}
	if _, err := retries.delay(errGone); err != error(errGone) {
		t.Error(err)
	}
}

func TestTheDeadlineBoundsIt(t *testing.T) {
	moment := time.Unix(1e9, 0)
	retries := newRetries(&moment, 1, ResumePolicy{InitialBackoff: 4 * time.Second})
	retries.deadline = moment.Add(10 * time.Second)
	delay, err := retries.delay(errGone)
	if err != nil {
		t.Fatal(err)
	}
	moment = moment.Add(delay)
	_, err = retries.delay(errGone)
	checkIs(t, err, ErrDeadlineExceeded, errGone)
}
