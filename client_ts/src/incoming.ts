import { BatchLostError, UnexpectedError, type BatchLLMClientError } from "./errors.js";
import { openFrame } from "./frames.js";
import type {
  BatchOpened as OpenedMessage,
  ItemsAccepted,
  OpenBatch,
  ProcessBatchResponse,
} from "./gen/batchllm/v1/batch_service.js";
import type { WorkItemResult } from "./gen/batchllm/v1/work.js";
import { toCount } from "./counts.js";
import { toOpened, toProgress, toTotals, type BatchOpened, type Progress, type Totals } from "./model.js";

/** The side that sends, as far as what comes back concerns it. */
export interface Sending {
  begin(serverBytes: number): void;
  confirm(received: number): void;
}

/** What counts the tries, as far as what comes back concerns it. */
export interface Counting {
  connected(): void;
  progress(): void;
}

/** What the server has said of a batch so far, on all its streams. */
export class Incoming {
  readonly #opening: OpenBatch;
  readonly #sending: Sending;
  readonly #retries: Counting;
  readonly #onProgress: ((progress: Progress) => void) | undefined;
  #opened: BatchOpened | undefined;
  #progress: Progress | undefined;
  #totals: Totals | undefined;
  #held = 0;
  #lastSequence: number;
  #newestSequence: number;

  /** `opening` is what the batch was opened with first; `retries` are told of what is new. */
  constructor(
    opening: OpenBatch,
    sending: Sending,
    retries: Counting,
    onProgress: ((progress: Progress) => void) | undefined,
  ) {
    this.#opening = opening;
    this.#sending = sending;
    this.#retries = retries;
    this.#onProgress = onProgress;
    this.#lastSequence = toCount(opening.resumeAfterSequence);
    this.#newestSequence = this.#lastSequence;
  }

  get batchId(): string {
    return this.#opening.batchId;
  }

  get detached(): boolean {
    return this.#opening.detach;
  }

  get opened(): BatchOpened | undefined {
    return this.#opened;
  }

  get progress(): Progress | undefined {
    return this.#progress;
  }

  /** The totals, which come with the last frame. */
  get totals(): Totals | undefined {
    return this.#totals;
  }

  /** How many items the server was last known to hold. */
  get held(): number {
    return this.#held;
  }

  /** The first frame of the next stream. */
  opening(): Uint8Array {
    return openFrame({ ...this.#opening, resumeAfterSequence: BigInt(this.#lastSequence) });
  }

  /**
   * Notes what a frame says and gives the new results in it; a frame of a kind unknown here says nothing.
   *
   * @throws BatchLostError: the server no longer holds what it had accepted.
   * @throws UnexpectedError: the server breaks the protocol.
   */
  take(frame: ProcessBatchResponse): WorkItemResult[] {
    if (frame.results !== undefined) {
      return this.#following(frame.results.results);
    }
    if (frame.accepted !== undefined) {
      this.#accept(frame.accepted);
    } else if (frame.opened !== undefined) {
      this.#open(frame.opened);
    } else if (frame.progress !== undefined) {
      this.#progress = toProgress(frame.progress);
      this.#onProgress?.(this.#progress);
    } else if (frame.batchResult !== undefined) {
      this.#end(toTotals(frame.batchResult));
    }
    return [];
  }

  /** Holds the server to its word when it ends the stream with OK. UnexpectedError: something is missing. */
  checkComplete(): void {
    if (this.#opened === undefined || this.#totals === undefined) {
      const missing = this.#opened === undefined ? "`opened`" : "`batch_result`";
      throw new UnexpectedError(`the server ended the stream without ${missing}`, { code: "OK" });
    }
  }

  /** Says what it means when a server that knew the batch refuses to go on after the last result. */
  explain(error: BatchLLMClientError): BatchLLMClientError {
    const { field } = error.metadata;
    return this.#opened !== undefined && field === "resume_after_sequence" ? this.#lost() : error;
  }

  #open(message: OpenedMessage): void {
    const opened = toOpened(message);
    if (this.#opened !== undefined && (opened.items < this.#held || opened.lastSequence < this.#lastSequence)) {
      throw this.#lost();
    }
    this.#opened = opened;
    this.#held = opened.items;
    this.#retries.connected();
    this.#sending.begin(opened.maxMessageBytes);
  }

  #accept(accepted: ItemsAccepted): void {
    const held = toCount(accepted.items);
    if (held > this.#held) {
      this.#held = held;
      this.#retries.progress();
    }
    this.#sending.confirm(toCount(accepted.received));
  }

  #end(totals: Totals): void {
    if (totals.totalItems > this.#newestSequence) {
      throw leftOut(`the batch has ${totals.totalItems}, the last one is ${this.#newestSequence}`);
    }
    this.#totals = totals;
  }

  #lost(): BatchLostError {
    return new BatchLostError(this.batchId, this.#held, this.#lastSequence, this.#opened?.durable ?? false);
  }

  #following(results: WorkItemResult[]): WorkItemResult[] {
    const fresh: WorkItemResult[] = [];
    for (const result of results) {
      const sequence = toCount(result.sequence);
      if (sequence > this.#lastSequence + 1) {
        throw leftOut(`result ${sequence} follows ${this.#lastSequence}`);
      }
      if (sequence > this.#lastSequence) {
        this.#lastSequence = sequence;
        fresh.push(result);
      }
    }
    if (this.#lastSequence > this.#newestSequence) {
      this.#newestSequence = this.#lastSequence;
      this.#retries.progress();
    }
    return fresh;
  }
}

function leftOut(gap: string): UnexpectedError {
  return new UnexpectedError(`the server left out results: ${gap}`, { code: "OK" });
}
