package batchllm

import (
	"strings"

	batchllmv1 "github.com/batch-llm/batch-llm/client_go/batchllm/v1"
)

const reasonPrefix = "ERROR_REASON_"

// Reason says why an item or a call failed, to branch on: a name of [batchllmv1.ErrorReason] without its prefix. What
// each means, with an example, stands there. A sidecar that is newer than this client may give one that is not listed
// here.
type Reason string

// Reasons of calls and streams. STRATEGY_NOT_FOUND may be an item's as well.
const (
	ReasonOpenFrameRequired    Reason = "OPEN_FRAME_REQUIRED"
	ReasonOpenFrameRepeated    Reason = "OPEN_FRAME_REPEATED"
	ReasonFrameEmpty           Reason = "FRAME_EMPTY"
	ReasonInvalidField         Reason = "INVALID_FIELD"
	ReasonStrategyNotFound     Reason = "STRATEGY_NOT_FOUND"
	ReasonStrategyExists       Reason = "STRATEGY_EXISTS"
	ReasonStrategyFromFile     Reason = "STRATEGY_FROM_FILE"
	ReasonStrategyInUse        Reason = "STRATEGY_IN_USE"
	ReasonRegistrationDisabled Reason = "REGISTRATION_DISABLED"
	ReasonProviderNotFound     Reason = "PROVIDER_NOT_FOUND"
	ReasonBatchInUse           Reason = "BATCH_IN_USE"
	ReasonCacheNotConfigured   Reason = "CACHE_NOT_CONFIGURED"
	ReasonCacheNotFound        Reason = "CACHE_NOT_FOUND"
	ReasonServerDraining       Reason = "SERVER_DRAINING"
	ReasonJournalFull          Reason = "JOURNAL_FULL"
	ReasonJournalUnavailable   Reason = "JOURNAL_UNAVAILABLE"
	ReasonBatchNotFound        Reason = "BATCH_NOT_FOUND"
	ReasonBatchNotFinished     Reason = "BATCH_NOT_FINISHED"
	ReasonIdempotencyConflict  Reason = "IDEMPOTENCY_CONFLICT"
)

// Reasons of items.
const (
	ReasonInvalidItem           Reason = "INVALID_ITEM"
	ReasonItemIDConflict        Reason = "ITEM_ID_CONFLICT"
	ReasonItemDeadlineExceeded  Reason = "ITEM_DEADLINE_EXCEEDED"
	ReasonAttemptTimeout        Reason = "ATTEMPT_TIMEOUT"
	ReasonProviderTimeout       Reason = "PROVIDER_TIMEOUT"
	ReasonRateLimited           Reason = "RATE_LIMITED"
	ReasonProviderUnavailable   Reason = "PROVIDER_UNAVAILABLE"
	ReasonProviderRejected      Reason = "PROVIDER_REJECTED"
	ReasonAuthenticationFailed  Reason = "AUTHENTICATION_FAILED"
	ReasonContextLengthExceeded Reason = "CONTEXT_LENGTH_EXCEEDED"
	ReasonValidationFailed      Reason = "VALIDATION_FAILED"
	ReasonPrepareFailed         Reason = "PREPARE_FAILED"
	ReasonCancelled             Reason = "CANCELLED"
	ReasonInternal              Reason = "INTERNAL"
	ReasonCacheExpired          Reason = "CACHE_EXPIRED"
	ReasonContentBlocked        Reason = "CONTENT_BLOCKED"
)

// reasonOf names an item's reason; UNSPECIFIED where a newer sidecar sends a number that has no name here.
func reasonOf(number batchllmv1.ErrorReason) Reason {
	name, known := batchllmv1.ErrorReason_name[int32(number)]
	if !known {
		name = batchllmv1.ErrorReason_ERROR_REASON_UNSPECIFIED.String()
	}
	return Reason(strings.TrimPrefix(name, reasonPrefix))
}
