/**
 * The client's errors, and the one place where gRPC's become them.
 *
 *     BatchLLMClientError
 *     ├── SidecarUnavailableError      nobody answers at the target
 *     │   ├── ServerDrainingError      the sidecar is shutting down; see `retryAfterMs`
 *     │   └── JournalUnavailableError  its journal cannot be written now
 *     ├── InvalidRequestError
 *     ├── NotFoundError
 *     │   └── BatchNotFoundError
 *     ├── AlreadyExistsError
 *     │   └── IdempotencyConflictError the idempotency key was used for another item
 *     ├── PermissionDeniedError
 *     ├── FailedPreconditionError
 *     │   └── BatchNotFinishedError    e.g. deleting a batch that runs
 *     ├── AbortedError
 *     │   └── BatchInUseError          the batch id is open on another stream
 *     ├── DeadlineExceededError
 *     ├── ResourceExhaustedError
 *     │   ├── JournalFullError         its disk is full
 *     │   └── MessageTooLargeError     refused before it was sent
 *     ├── BatchLostError               the sidecar no longer holds what it had accepted
 *     ├── CallCancelledError           by `cancel()`, by closing the client, or by the server
 *     ├── ClientClosedError            the client was closed before the call
 *     └── UnexpectedError              anything else: a bug, or no sidecar behind the target
 *
 * Branch on the class or on `reason`, never on message text.
 */
import { status, type Metadata, type ServiceError } from "@grpc/grpc-js";

import type { ErrorReason } from "./gen/batchllm/v1/errors.js";
import { DETAILS_KEY, parseDetails, type StatusDetails } from "./status.js";

/** The name of a gRPC status code, e.g. `NOT_FOUND`. */
export type StatusCode = keyof typeof status;

/** The name of a reason of this version of the protocol, e.g. `STRATEGY_NOT_FOUND`. */
export type Reason = keyof typeof ErrorReason;

/** What an error says beside its message. */
export interface ErrorFacts {
  code?: StatusCode | undefined;
  reason?: string | undefined;
  metadata?: Readonly<Record<string, string>> | undefined;
  retryAfterMs?: number | undefined;
  cause?: unknown;
}

/** Something went wrong with a call or a stream. */
export class BatchLLMClientError extends Error {
  /** The gRPC status code's name, e.g. `NOT_FOUND`. */
  readonly code: StatusCode;
  /** The sidecar's reason, e.g. `STRATEGY_NOT_FOUND`; undefined when it gave none. A newer one may not be in `Reason`. */
  readonly reason: Reason | (string & {}) | undefined;
  /** Facts behind the reason; empty when there are none. */
  readonly metadata: Readonly<Record<string, string>>;
  /** Milliseconds to wait before trying again, as the sidecar asks; undefined when it does not. */
  readonly retryAfterMs: number | undefined;

  constructor(message: string, facts: ErrorFacts = {}) {
    super(message, facts.cause === undefined ? undefined : { cause: facts.cause });
    this.name = new.target.name;
    this.code = facts.code ?? "UNKNOWN";
    this.reason = facts.reason;
    this.metadata = facts.metadata ?? {};
    this.retryAfterMs = facts.retryAfterMs;
  }
}

/** Nobody answers at the target, or the connection broke. */
export class SidecarUnavailableError extends BatchLLMClientError {}

/** The sidecar is shutting down; try again after `retryAfterMs`. */
export class ServerDrainingError extends SidecarUnavailableError {}

/** The sidecar cannot write its journal now; what it accepted is safe. Try again after a moment. */
export class JournalUnavailableError extends SidecarUnavailableError {}

/** A field of the request is out of its range; `metadata.field` names it. */
export class InvalidRequestError extends BatchLLMClientError {}

/** There is no such strategy, cache or batch. */
export class NotFoundError extends BatchLLMClientError {}

/** No batch of that id is known: it was deleted, its retention is over, or it never was. */
export class BatchNotFoundError extends NotFoundError {}

/** A strategy of that name exists with another spec; `metadata.differs` says where. */
export class AlreadyExistsError extends BatchLLMClientError {}

/** The idempotency key was used for another item. */
export class IdempotencyConflictError extends AlreadyExistsError {}

/** The operator does not allow it. */
export class PermissionDeniedError extends BatchLLMClientError {}

/** It cannot be done as things are, e.g. unregistering a strategy in use. */
export class FailedPreconditionError extends BatchLLMClientError {}

/** The batch has not ended: wait for it, or cancel it. */
export class BatchNotFinishedError extends FailedPreconditionError {}

/** Somebody else is at it. */
export class AbortedError extends BatchLLMClientError {}

/** The batch id is open on another stream. */
export class BatchInUseError extends AbortedError {}

/** The call's `timeoutMs` ran out. */
export class DeadlineExceededError extends BatchLLMClientError {}

/** The sidecar refuses for size or load. */
export class ResourceExhaustedError extends BatchLLMClientError {}

/** The disk of the sidecar's journal is full; what it accepted is safe. Make room on it. */
export class JournalFullError extends ResourceExhaustedError {}

/** An item alone exceeds the message limit and was not sent. */
export class MessageTooLargeError extends ResourceExhaustedError {
  constructor(
    /** The item. */
    readonly itemId: string,
    /** Its size in bytes. */
    readonly size: number,
    /** The limit in bytes: the client's `maxMessageBytes` or the server's, whichever is smaller. */
    readonly limit: number,
  ) {
    super(
      `item ${JSON.stringify(itemId)} has ${grouped(size)} bytes, more than the limit of ${grouped(limit)} bytes for ` +
        "a message: shorten its prompt or context, or raise maxMessageBytes here and max_message_bytes at the sidecar",
      { code: "RESOURCE_EXHAUSTED" },
    );
  }
}

/** The sidecar no longer holds items that it had accepted, so the batch cannot be resumed. */
export class BatchLostError extends BatchLLMClientError {
  constructor(
    /** The batch. */
    readonly batchId: string,
    /** How many items the sidecar held. */
    readonly held: number,
    /** Results up to this one were handed out. */
    readonly lastSequence: number,
    /** False: its journal was in memory and ended with it. True: the batch or the journal was deleted. */
    readonly durable: boolean,
  ) {
    const cause = durable
      ? "the batch was deleted, or a sidecar with another journal answers now"
      : 'it was restarted and its journal was in memory (journal.url = "memory")';
    super(
      `the sidecar no longer holds the ${grouped(held)} items that it had accepted of batch ` +
        `${JSON.stringify(batchId)}: ${cause}; results came up to sequence ${lastSequence}: send the items without ` +
        "one as a new batch",
      { code: "DATA_LOSS" },
    );
  }
}

/** The call or stream was cancelled. */
export class CallCancelledError extends BatchLLMClientError {}

/** The client was closed before the call. */
export class ClientClosedError extends BatchLLMClientError {}

/** What should not happen: a bug in the sidecar, or something else behind the target. */
export class UnexpectedError extends BatchLLMClientError {}

type ErrorClass = new (message: string, facts: ErrorFacts) => BatchLLMClientError;

// A reason, where it has a class of its own, goes before the code.
const BY_REASON: ReadonlyMap<string, ErrorClass> = new Map<Reason, ErrorClass>([
  ["SERVER_DRAINING", ServerDrainingError],
  ["JOURNAL_UNAVAILABLE", JournalUnavailableError],
  ["JOURNAL_FULL", JournalFullError],
  ["BATCH_IN_USE", BatchInUseError],
  ["BATCH_NOT_FOUND", BatchNotFoundError],
  ["BATCH_NOT_FINISHED", BatchNotFinishedError],
  ["IDEMPOTENCY_CONFLICT", IdempotencyConflictError],
]);

const BY_CODE: ReadonlyMap<StatusCode, ErrorClass> = new Map<StatusCode, ErrorClass>([
  ["UNAVAILABLE", SidecarUnavailableError],
  ["INVALID_ARGUMENT", InvalidRequestError],
  ["OUT_OF_RANGE", InvalidRequestError],
  ["NOT_FOUND", NotFoundError],
  ["ALREADY_EXISTS", AlreadyExistsError],
  ["PERMISSION_DENIED", PermissionDeniedError],
  ["UNAUTHENTICATED", PermissionDeniedError],
  ["FAILED_PRECONDITION", FailedPreconditionError],
  ["ABORTED", AbortedError],
  ["DEADLINE_EXCEEDED", DeadlineExceededError],
  ["RESOURCE_EXHAUSTED", ResourceExhaustedError],
  ["CANCELLED", CallCancelledError],
]);

// Where gRPC itself speaks, not the sidecar, its words lack the way out.
const PLAIN_WORDS: Partial<Record<StatusCode, (target: string, details: string) => string>> = {
  UNAVAILABLE: (target, details) =>
    `no batch-llm sidecar answers at ${target} (${details}): ` +
    "start one with `batch-llm-sidecar serve`, or give the target of the one that runs",
  DEADLINE_EXCEEDED: (target) => `${target} did not finish within the timeout: allow more milliseconds`,
  UNIMPLEMENTED: (target) => `${target} does not know this call: it is no batch-llm sidecar, or an older one`,
};

/** Turns an error of gRPC into one of this module's; `target` is what the client talks to. */
export function fromServiceError(error: ServiceError, target: string): BatchLLMClientError {
  const details = detailsOf(error.metadata);
  const code = status[error.code] as StatusCode;
  const words = details.reason === undefined ? PLAIN_WORDS[code] : undefined;
  const message = words?.(target, error.details) ?? (error.details || "no details given");
  const errorClass = BY_REASON.get(details.reason ?? "") ?? BY_CODE.get(code) ?? UnexpectedError;
  return new errorClass(message, { code, ...details, cause: error });
}

/** Whether an error is gRPC's own. */
export function isServiceError(error: unknown): error is ServiceError {
  return error instanceof Error && "code" in error && typeof error.code === "number" && "details" in error;
}

/** Says that nobody answered at `target` for so long. */
export function unavailable(target: string, timeoutMs: number): SidecarUnavailableError {
  const words = PLAIN_WORDS.UNAVAILABLE?.(target, `waited ${timeoutMs} ms`) ?? "";
  return new SidecarUnavailableError(words, { code: "UNAVAILABLE" });
}

/** Says that `target` took longer than the caller allows. */
export function late(target: string): DeadlineExceededError {
  const words = PLAIN_WORDS.DEADLINE_EXCEEDED?.(target, "") ?? "";
  return new DeadlineExceededError(words, { code: "DEADLINE_EXCEEDED" });
}

/** Says that a call to `target` was cancelled on this side. */
export function cancelled(target: string): CallCancelledError {
  return new CallCancelledError(`the call to ${target} was cancelled`, { code: "CANCELLED" });
}

/** Says that the client of `target` is closed. */
export function closed(target: string): ClientClosedError {
  return new ClientClosedError(`the client of ${target} is closed: make a new one`, { code: "CANCELLED" });
}

function detailsOf(trailers: Metadata): StatusDetails {
  const [value] = trailers.get(DETAILS_KEY);
  return value instanceof Uint8Array ? parseDetails(value) : {};
}

function grouped(count: number): string {
  return count.toLocaleString("en-US");
}
