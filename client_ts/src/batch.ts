import type { Clock } from "./clock.js";
import { hangUp, type BatchCall, type Connection } from "./connection.js";
import { BatchLLMClientError, cancelled, fromServiceError, isServiceError, late } from "./errors.js";
import { openBatch, type Limits, type Opening } from "./frames.js";
import { BatchServiceService, BatchState } from "./gen/batchllm/v1/batch_service.js";
import type { WorkItemResult } from "./gen/batchllm/v1/work.js";
import { Incoming } from "./incoming.js";
import { toResult, type BatchOpened, type Progress, type Result, type Totals, type WorkItem } from "./model.js";
import { Outgoing } from "./outgoing.js";
import { isResumable, Retries, type ResumePolicy } from "./resume.js";

const SEAL_POLL_MS = 20;
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** What a batch does, and with whom. */
export interface BatchSetup {
  readonly connection: Connection;
  readonly clock: Clock;
  readonly limits: Limits;
  readonly items: Iterable<WorkItem> | AsyncIterable<WorkItem>;
  readonly opening: Opening;
  readonly policy: ResumePolicy | undefined;
  readonly timeoutMs: number | undefined;
  readonly signal: AbortSignal | undefined;
  readonly onProgress: ((progress: Progress) => void) | undefined;
}

/**
 * A batch in flight: iterate over its results with `for await`. Leaving the loop early cancels the stream.
 *
 * Iterating throws a `BatchLLMClientError` when the stream fails and cannot be resumed, and what the source of the
 * items, `onProgress` or the signal throws, as it is.
 *
 * Once it has opened, a connection that breaks or a sidecar that restarts is ridden out: the batch is opened again,
 * items that the sidecar had not confirmed are sent again, and results go on after the last one handed out, without a
 * gap or a repeat.
 */
export class Batch implements AsyncIterableIterator<Result>, AsyncDisposable {
  readonly #connection: Connection;
  readonly #clock: Clock;
  readonly #outgoing: Outgoing;
  readonly #incoming: Incoming;
  readonly #retries: Retries;
  readonly #over = new AbortController();
  readonly #changes = new Changes();
  readonly #release: () => void;
  readonly #deadline: NodeJS.Timeout | undefined;
  #call: BatchCall | undefined;
  #ready: Result[] = [];
  #next = 0;
  #lastSequence: number;
  #leaving = false;
  #ended = false;
  #failure: { readonly error: unknown } | undefined;

  /** Made by `BatchClient.processBatch`. */
  constructor(setup: BatchSetup) {
    const { connection, clock, limits, items, policy, timeoutMs } = setup;
    const opening = openBatch(setup.opening);
    this.#connection = connection;
    this.#clock = clock;
    this.#retries = new Retries(policy, timeoutMs, clock);
    this.#outgoing = new Outgoing(items, limits, {
      onRead: () => {
        this.#changes.notify();
      },
      onFailure: (error) => {
        this.#stop(error);
      },
    });
    this.#incoming = new Incoming(opening, this.#outgoing, this.#retries, setup.onProgress);
    this.#lastSequence = Number(opening.resumeAfterSequence);
    this.#release = connection.guard(setup.signal, (reason) => {
      this.#stop(reason);
    });
    if (timeoutMs !== undefined && timeoutMs <= LONGEST_TIMER_MS) {
      this.#deadline = setTimeout(() => {
        this.#stop(late(connection.target));
      }, timeoutMs);
    }
    void this.#run();
  }

  /** The next result, in the order that was asked for. */
  async next(): Promise<IteratorResult<Result, undefined>> {
    for (;;) {
      const value = this.#ready[this.#next];
      if (value !== undefined) {
        this.#next += 1;
        if (this.#next === this.#ready.length) {
          this.#ready = [];
          this.#next = 0;
          this.#changes.notify();
        }
        this.#lastSequence = value.sequence;
        return { done: false, value };
      }
      if (this.#failure !== undefined) {
        throw this.#failure.error;
      }
      if (this.#ended) {
        return { done: true, value: undefined };
      }
      await this.#changes.next();
    }
  }

  /** Called when a loop is left early: cancels the stream. */
  return(): Promise<IteratorResult<Result, undefined>> {
    this.cancel();
    return Promise.resolve({ done: true, value: undefined });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  /** Cancels the stream, for `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    this.cancel();
    return Promise.resolve();
  }

  /** Waits for the server's answer: what is in force. BatchLLMClientError: the server refused. */
  async waitOpened(): Promise<BatchOpened> {
    for (;;) {
      if (this.#incoming.opened !== undefined) {
        return this.#incoming.opened;
      }
      if (this.#failure !== undefined) {
        throw this.#failure.error;
      }
      await this.#changes.next();
    }
  }

  /** The batch's id: yours, or the one that this client made. Known from the start. */
  get batchId(): string {
    return this.#incoming.batchId;
  }

  /** Sequence of the last result handed out: what to give as `resumeAfterSequence`. */
  get lastSequence(): number {
    return this.#lastSequence;
  }

  /** What is in force; undefined before the server has answered, see `waitOpened()`. */
  get opened(): BatchOpened | undefined {
    return this.#incoming.opened;
  }

  /** The latest report of the server; undefined before the first. */
  get progress(): Progress | undefined {
    return this.#incoming.progress;
  }

  /** The totals, after the last result. Error: the batch has not ended, or not well. */
  get totals(): Totals {
    const { totals } = this.#incoming;
    if (totals === undefined) {
      throw new Error("a batch's totals come at its end: iterate over all its results first");
    }
    return totals;
  }

  /**
   * Waits until the sidecar holds all items and knows that these are all, then ends the stream. The batch goes on by
   * itself. Results that were not handed out yet are passed over: `BatchClient.resumeBatch` gives them again.
   *
   * @returns how many items the sidecar holds of the batch.
   * @throws Error: the batch was not opened with `detach`.
   */
  async leave(): Promise<number> {
    if (!this.#incoming.detached) {
      throw new Error("only a batch that was opened with detach: true goes on by itself");
    }
    this.#leaving = true;
    this.#ready = [];
    this.#next = 0;
    this.#changes.notify();
    while (!this.#ended && !(this.#outgoing.settled && (await this.#isSealed()))) {
      await (this.#outgoing.settled ? this.#clock.sleep(SEAL_POLL_MS, this.#over.signal) : this.#changes.next());
    }
    if (this.#failure !== undefined) {
      throw this.#failure.error;
    }
    this.cancel();
    return this.#incoming.held;
  }

  /**
   * Cancels the stream; iterating then throws CallCancelledError. No effect after the end.
   *
   * The sidecar keeps the batch: items under way finish, others wait until the batch is opened again. To end the batch
   * itself, see `BatchClient.cancelBatch`.
   */
  cancel(): void {
    this.#stop(cancelled(this.#connection.target));
  }

  /** Takes the batch from its first stream to its end. */
  async #run(): Promise<void> {
    try {
      for (;;) {
        const failure = await this.#receive();
        if (failure === undefined) {
          break;
        }
        if (this.#incoming.opened === undefined) {
          throw failure;
        }
        await this.#clock.sleep(this.#retries.delay(this.#incoming.explain(failure)), this.#over.signal);
        this.#over.signal.throwIfAborted();
      }
    } catch (error) {
      this.#failure ??= { error };
    }
    this.#ended = true;
    this.#outgoing.stop();
    this.#release();
    clearTimeout(this.#deadline);
    this.#changes.notify();
  }

  /** Reads one stream to its end. What broke it, if it did not end well. */
  async #receive(): Promise<BatchLLMClientError | undefined> {
    const { call, frames } = this.#connection.stream();
    this.#call = call;
    this.#outgoing.start(call, this.#incoming.opening());
    try {
      for await (const frame of frames) {
        await this.#hand(this.#incoming.take(frame));
        this.#over.signal.throwIfAborted();
      }
      this.#incoming.checkComplete();
      return undefined;
    } catch (error) {
      if (this.#failure === undefined && isServiceError(error)) {
        return this.#incoming.totals === undefined ? fromServiceError(error, this.#connection.target) : undefined;
      }
      this.#stop(error);
      throw error;
    } finally {
      this.#outgoing.end();
    }
  }

  /** Gives results to the one who iterates, and reads no further before they are taken. */
  async #hand(results: WorkItemResult[]): Promise<void> {
    if (results.length > 0 && !this.#leaving) {
      this.#ready = results.map(toResult);
    }
    this.#changes.notify();
    while (this.#ready.length > 0 && !this.#leaving && this.#failure === undefined) {
      await this.#changes.next();
    }
  }

  #stop(error: unknown): void {
    if (!this.#ended && this.#failure === undefined) {
      this.#failure = { error };
      this.#over.abort(error);
      this.#outgoing.stop();
      if (this.#call !== undefined) {
        hangUp(this.#call);
      }
      this.#changes.notify();
    }
  }

  /** Asks whether the server has noticed the half-close; false as well when the connection broke, as reading tells. */
  async #isSealed(): Promise<boolean> {
    const { getBatch } = BatchServiceService;
    try {
      const options = { timeoutMs: this.#retries.timeLeft(), signal: this.#over.signal };
      const { batch } = await this.#connection.unary(getBatch, { batchId: this.batchId }, options);
      return batch?.state !== BatchState.OPEN;
    } catch (error) {
      if (this.#ended || (error instanceof BatchLLMClientError && isResumable(error))) {
        return false;
      }
      throw error;
    }
  }
}

/** Lets several wait for the next change. */
class Changes {
  #waiting: (() => void)[] = [];

  next(): Promise<void> {
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  notify(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const resolve of waiting) {
      resolve();
    }
  }
}
