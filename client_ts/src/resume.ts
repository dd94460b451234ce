/** When a call is tried again, after how long, and when that is over. */
import { checkTimeout } from "./durations.js";
import { BatchLLMClientError, DeadlineExceededError, type StatusCode } from "./errors.js";
import { checkOptions } from "./options.js";

// Every code of gRPC is in one of these sets. A batch goes on after:

/** The connection broke, nobody answers, the sidecar drains, or its journal cannot be written now. */
export const RESUMABLE_CODES: ReadonlySet<StatusCode> = new Set(["UNAVAILABLE"]);

/** Without a reason they come from a connection that broke, or from a proxy (RST_STREAM), not from a sidecar. */
export const BROKEN_TRANSPORT_CODES: ReadonlySet<StatusCode> = new Set(["INTERNAL", "UNKNOWN", "CANCELLED"]);

/** The sidecar has not noticed yet that the stream before is gone; somebody is making room. */
export const RESUMABLE_REASONS: ReadonlySet<string> = new Set(["BATCH_IN_USE", "JOURNAL_FULL"]);

// And not after these, unless for one of the reasons above:
export const TERMINAL_CODES: ReadonlySet<StatusCode> = new Set([
  "ABORTED",
  "ALREADY_EXISTS",
  "DATA_LOSS",
  "DEADLINE_EXCEEDED",
  "FAILED_PRECONDITION",
  "INVALID_ARGUMENT",
  "NOT_FOUND",
  "OK",
  "OUT_OF_RANGE",
  "PERMISSION_DENIED",
  "RESOURCE_EXHAUSTED",
  "UNAUTHENTICATED",
  "UNIMPLEMENTED",
]);

// Whatever a server asks for, it is counted as so much at least: what is bounded must come to an end.
const LEAST_ASKED_MS = 1000;

/** Whether a batch that was open, or a call with an idempotency key, may go on after an error. */
export function isResumable(error: BatchLLMClientError): boolean {
  if (BROKEN_TRANSPORT_CODES.has(error.code)) {
    return error.reason === undefined;
  }
  return RESUMABLE_CODES.has(error.code) || RESUMABLE_REASONS.has(error.reason ?? "");
}

/** How long a client goes on trying after a connection broke. All bounds count anew when there is progress. */
export interface ResumePolicy {
  /** At most so many tries. Default 10. */
  readonly maxTries: number;
  /** No further try after so long without a stream, what the server asked for not counted. Default 60,000. */
  readonly maxAwayMs: number;
  /** At most so much waiting that the server asked for (RetryInfo); such waits are no tries. Default 300,000. */
  readonly maxAskedMs: number;
  /** The most that is waited before the first try; twice as much before each one that follows. Default 200. */
  readonly initialBackoffMs: number;
  /** The most that is waited before any try. Each wait is drawn evenly from 0 to its most. Default 15,000. */
  readonly maxBackoffMs: number;
}

export const DEFAULT_POLICY: ResumePolicy = {
  maxTries: 10,
  maxAwayMs: 60_000,
  maxAskedMs: 300_000,
  initialBackoffMs: 200,
  maxBackoffMs: 15_000,
};

/** Fills in the defaults. TypeError: a bound is unknown. RangeError: it is negative or no number. */
export function toPolicy(given: Partial<ResumePolicy> = {}): ResumePolicy {
  checkOptions(given, DEFAULT_POLICY, "resumePolicy.");
  const policy = { ...DEFAULT_POLICY, ...given };
  for (const [name, value] of Object.entries(policy)) {
    if (!(value >= 0)) {
      throw new RangeError(`resumePolicy.${name} must be at least 0, not ${value}`);
    }
  }
  return policy;
}

/** Counts the tries of one batch or call. */
export class Retries {
  readonly #policy: ResumePolicy | undefined;
  readonly #deadline: number | undefined;
  readonly #clock: { now(): number; random(): number };
  #goneSince: number | undefined;
  #tries = 0;
  #away = 0;
  #asked = 0;

  /** Without a policy there is no other try; `timeoutMs` is the caller's, counted from now. */
  constructor(
    policy: ResumePolicy | undefined,
    timeoutMs: number | undefined,
    clock: { now(): number; random(): number },
  ) {
    this.#policy = policy;
    this.#deadline = timeoutMs === undefined ? undefined : clock.now() + checkTimeout(timeoutMs);
    this.#clock = clock;
  }

  /** Counts anew: something new has come. */
  progress(): void {
    this.#tries = 0;
    this.#away = 0;
    this.#asked = 0;
  }

  /** Notes that there is a stream again. */
  connected(): void {
    if (this.#goneSince !== undefined) {
      this.#away += this.#clock.now() - this.#goneSince;
      this.#goneSince = undefined;
    }
  }

  /** Milliseconds until the deadline, for the next call; undefined: there is none. */
  timeLeft(): number | undefined {
    return this.#deadline === undefined ? undefined : Math.max(this.#deadline - this.#clock.now(), 0);
  }

  /** Milliseconds to wait before the next try. Throws `error` when there is to be none. */
  delay(error: BatchLLMClientError): number {
    const policy = this.#policy;
    if (policy === undefined || !isResumable(error)) {
      throw error;
    }
    const now = this.#clock.now();
    this.#goneSince ??= now;
    if (this.#away + now - this.#goneSince - this.#asked >= policy.maxAwayMs) {
      throw error;
    }
    const asked = error.retryAfterMs ?? 0;
    if (asked > 0) {
      if (this.#asked + asked > policy.maxAskedMs) {
        throw error;
      }
      this.#asked += Math.max(asked, LEAST_ASKED_MS);
    } else {
      if (this.#tries >= policy.maxTries) {
        throw error;
      }
      this.#tries += 1;
    }
    const most = Math.min(policy.initialBackoffMs * 2 ** Math.max(this.#tries - 1, 0), policy.maxBackoffMs);
    const delay = asked + this.#clock.random() * most;
    if (this.#deadline !== undefined && now + delay >= this.#deadline) {
      const wait = (delay / 1000).toFixed(1);
      throw new DeadlineExceededError(
        `the timeout runs out before the next try, in ${wait} s; the last one: ${error.message}`,
        { code: "DEADLINE_EXCEEDED", cause: error },
      );
    }
    return delay;
  }
}
