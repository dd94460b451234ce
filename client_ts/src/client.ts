import { Batch } from "./batch.js";
import * as defaults from "./channel.js";
import { SYSTEM_CLOCK, type Clock } from "./clock.js";
import { Connection, type CallOptions } from "./connection.js";
import { checkTimeout, toDuration } from "./durations.js";
import { BatchLLMClientError, UnexpectedError } from "./errors.js";
import { checkLimits, checkText, encode, toMessage, type Limits } from "./frames.js";
import { BatchServiceService as batches } from "./gen/batchllm/v1/batch_service.js";
import { CacheLifecycleServiceService as caches } from "./gen/batchllm/v1/cache_lifecycle_service.js";
import { StrategyServiceService as strategies } from "./gen/batchllm/v1/strategy_service.js";
import {
  toBatchInfo,
  toCache,
  toResult,
  type BatchInfo,
  type Cache,
  type Progress,
  type Result,
  type ResultOrder,
  type WorkItem,
} from "./model.js";
import { checkOptions } from "./options.js";
import { Retries, toPolicy, type ResumePolicy } from "./resume.js";
import { toSpecMessage, toStrategy, type Strategy, type StrategySpec } from "./strategies.js";

/** How a client behaves. */
export interface ClientOptions {
  /** Deadline of one call in milliseconds; batches have their own. Default 60,000. */
  timeoutMs?: number | undefined;
  /** Larger items are refused before sending. Default 16 MiB; the server's limit holds as well. */
  maxMessageBytes?: number | undefined;
  /** At most so many items in a frame. Default 64. */
  frameItems?: number | undefined;
  /** At most so many bytes in a frame of more than one item. Default 512 KiB. */
  frameBytes?: number | undefined;
  /**
   * At most so many items of a batch are kept to be sent again until the sidecar has confirmed them; then its source is
   * read on. Default 4,096.
   */
  unconfirmedItems?: number | undefined;
  /** Likewise in bytes. Default 32 MiB; one item may exceed it. */
  unconfirmedBytes?: number | undefined;
  /** How long batches, and calls with an idempotency key, go on trying when the connection breaks. */
  resumePolicy?: Partial<ResumePolicy> | undefined;
  /** Time and randomness; tests bring their own. */
  clock?: Clock | undefined;
}

/** How a batch is followed. */
export interface FollowOptions {
  /**
   * Ride out broken connections, as far as the client's `resumePolicy` goes. False: the first one ends the stream with
   * its error. Default true.
   */
  resume?: boolean | undefined;
  /** Deadline of the whole batch in milliseconds, broken connections included. Default: no limit. */
  timeoutMs?: number | undefined;
  /** Cancels the stream; iterating then throws the signal's reason. */
  signal?: AbortSignal | undefined;
  /** Called with each report of the server. What it throws ends the batch. */
  onProgress?: ((progress: Progress) => void) | undefined;
}

/** How a batch is run. */
export interface BatchOptions extends FollowOptions {
  /** Name of the strategy of items that name none. */
  strategy?: string | undefined;
  /**
   * Your name for the batch, at most 256 bytes. Default: the client makes one, see `Batch.batchId`. Of a batch that
   * exists: it goes on; items sent again are recognised by id and content.
   */
  batchId?: string | undefined;
  /** At most so many of its items in flight. Default: the strategies' own limits. */
  maxConcurrency?: number | undefined;
  /** Default: the order of the batch where it exists, else `completion`. */
  resultOrder?: ResultOrder | undefined;
  /** Free text for the sidecar's logs. */
  labels?: Readonly<Record<string, string>> | undefined;
  /**
   * Of a batch that exists: results up to this one were received; those after it come again, `replayed`. Default 0:
   * all of them.
   */
  resumeAfterSequence?: number | undefined;
  /** What the sidecar has accepted goes on when this client goes away; see also `Batch.leave()`. Default false. */
  detach?: boolean | undefined;
}

/**
 * One connection to a sidecar.
 *
 * Every method that talks to the sidecar throws a `BatchLLMClientError` when that fails, and the signal's reason when it
 * is aborted.
 */
export class BatchClient implements AsyncDisposable {
  readonly #connection: Connection;
  readonly #clock: Clock;
  readonly #limits: Limits;
  readonly #policy: ResumePolicy;
  readonly #timeoutMs: number;

  /**
   * It connects when it is used first.
   *
   * @param target - the sidecar's address as gRPC takes it: `unix:/run/batch-llm/batch-llm.sock` or `host:port`.
   *   Default `127.0.0.1:50051`.
   * @throws TypeError or RangeError: the target can be none, or an option makes no sense.
   */
  constructor(target: string = defaults.DEFAULT_TARGET, options: ClientOptions = {}) {
    defaults.checkTarget(target);
    checkOptions(options, CLIENT_OPTIONS);
    this.#timeoutMs = checkTimeout(options.timeoutMs ?? defaults.DEFAULT_TIMEOUT_MS);
    this.#limits = checkLimits({
      frameItems: options.frameItems ?? defaults.DEFAULT_FRAME_ITEMS,
      frameBytes: options.frameBytes ?? defaults.DEFAULT_FRAME_BYTES,
      maxMessageBytes: options.maxMessageBytes ?? defaults.DEFAULT_MAX_MESSAGE_BYTES,
      unconfirmedItems: options.unconfirmedItems ?? defaults.DEFAULT_UNCONFIRMED_ITEMS,
      unconfirmedBytes: options.unconfirmedBytes ?? defaults.DEFAULT_UNCONFIRMED_BYTES,
    });
    this.#policy = toPolicy(options.resumePolicy);
    this.#clock = options.clock ?? SYSTEM_CLOCK;
    this.#connection = new Connection(target, this.#limits.maxMessageBytes);
  }

  /** Closes the connection; what is in flight is cancelled. Closing twice is no error. */
  close(): void {
    this.#connection.close();
  }

  /** Closes it, for `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    this.close();
    return Promise.resolve();
  }

  /** Waits until the sidecar can be reached, at most so many milliseconds. SidecarUnavailableError: it cannot. */
  async waitUntilReady(timeoutMs = 10_000): Promise<void> {
    await this.#connection.waitUntilReady(checkTimeout(timeoutMs));
  }

  /**
   * Streams items in; iterate over what it gives for the results as they finish.
   *
   * @param items - read as the sidecar takes them. An async source may wait: what it gave before is sent meanwhile.
   * @throws TypeError or RangeError: `items` cannot be iterated, no such option or result order, or
   *   `resumeAfterSequence` without `batchId`. What the server refuses comes when the batch is iterated.
   */
  processBatch(items: Iterable<WorkItem> | AsyncIterable<WorkItem>, options: BatchOptions = {}): Batch {
    checkOptions(options, BATCH_OPTIONS);
    return new Batch({
      connection: this.#connection,
      clock: this.#clock,
      limits: this.#limits,
      items,
      opening: options,
      policy: options.resume === false ? undefined : this.#policy,
      timeoutMs: options.timeoutMs,
      signal: options.signal,
      onProgress: options.onProgress,
    });
  }

  /**
   * Takes up a batch that exists, with no further items: its results after sequence `after`, to its end. What the
   * sidecar holds is all there is of the batch from then on. To send items that it does not hold yet, use
   * `processBatch` with the `batchId`.
   *
   * @throws BatchNotFoundError: there is none.
   */
  async resumeBatch(batchId: string, options: FollowOptions & { after?: number | undefined } = {}): Promise<Batch> {
    checkOptions(options, { ...FOLLOW_OPTIONS, after: true });
    const { after, ...follow } = options;
    // Opening one that is not there would make it.
    const { detach } = await this.getBatch(batchId, { signal: follow.signal });
    return this.processBatch([], { ...follow, batchId, resumeAfterSequence: after, detach });
  }

  /**
   * Runs one item, which must name its strategy; a failed item is a result too.
   *
   * @param options - `idempotencyKey`: your name for this call, at most 512 bytes. Called again with the same key and
   *   item, within the journal's retention, it gives the recorded result, `replayed`; so with a key a call whose
   *   connection broke is made again, as far as the client's `resumePolicy` goes. Without one it is made once.
   *   `timeoutMs` includes further tries.
   * @throws MessageTooLargeError: it was not sent.
   * @throws IdempotencyConflictError: the key was used for another item.
   */
  async processItem(
    item: WorkItem,
    options: CallOptions & { idempotencyKey?: string | undefined } = {},
  ): Promise<Result> {
    checkOptions(options, { ...CALL_OPTIONS, idempotencyKey: true });
    const { idempotencyKey = "", timeoutMs = this.#timeoutMs, signal } = options;
    checkText("idempotencyKey", idempotencyKey);
    encode(item, this.#limits.maxMessageBytes);
    const request = { item: toMessage(item), idempotencyKey };
    const retries = new Retries(idempotencyKey ? this.#policy : undefined, timeoutMs, this.#clock);
    const over = new AbortController();
    const release = this.#connection.guard(signal, (reason) => {
      over.abort(reason);
    });
    try {
      for (;;) {
        try {
          const call = { timeoutMs: retries.timeLeft(), signal: over.signal };
          const { result } = await this.#connection.unary(batches.processItem, request, call);
          return toResult(present(result, "result"));
        } catch (error) {
          if (over.signal.aborted || !(error instanceof BatchLLMClientError)) {
            throw error;
          }
          await this.#clock.sleep(retries.delay(error), over.signal);
          over.signal.throwIfAborted();
        }
      }
    } finally {
      release();
    }
  }

  /** Shows a batch. BatchNotFoundError: no such id. */
  async getBatch(batchId: string, options?: CallOptions): Promise<BatchInfo> {
    const { batch } = await this.#connection.unary(batches.getBatch, { batchId }, this.#call(options));
    return toBatchInfo(present(batch, "batch"));
  }

  /**
   * Iterates over all batches by id, ended ones included until their retention is over. They are asked for `pageSize`
   * at a time, at most 1,000; default: the server's, 100.
   */
  async *listBatches(
    options: CallOptions & { pageSize?: number | undefined } = {},
  ): AsyncGenerator<BatchInfo, void, undefined> {
    const call = this.#call(options, { ...CALL_OPTIONS, pageSize: true });
    let pageToken = "";
    do {
      const request = { pageSize: options.pageSize ?? 0, pageToken };
      const page = await this.#connection.unary(batches.listBatches, request, call);
      yield* page.batches.map(toBatchInfo);
      pageToken = page.nextPageToken;
    } while (pageToken !== "");
  }

  /**
   * Ends a batch: items that have not ended get a result that says CANCELLED. The batch as it is then. Cancelling one
   * that has ended is no error. BatchNotFoundError: no such id.
   */
  async cancelBatch(batchId: string, options?: CallOptions): Promise<BatchInfo> {
    const { batch } = await this.#connection.unary(batches.cancelBatch, { batchId }, this.#call(options));
    return toBatchInfo(present(batch, "batch"));
  }

  /**
   * Erases a batch that has ended, its prompts and outputs included. BatchNotFoundError: no such id.
   * BatchNotFinishedError: it has not ended.
   */
  async deleteBatch(batchId: string, options?: CallOptions): Promise<void> {
    await this.#connection.unary(batches.deleteBatch, { batchId }, this.#call(options));
  }

  /**
   * Registers a strategy: what is in force, and `registered` false if it existed with this very spec.
   *
   * @throws TypeError: the spec has an unknown key.
   * @throws AlreadyExistsError: the name has another spec.
   */
  async registerStrategy(
    spec: StrategySpec,
    options?: CallOptions,
  ): Promise<{ strategy: Strategy; registered: boolean }> {
    const request = { spec: toSpecMessage(spec) };
    const answer = await this.#connection.unary(strategies.registerStrategy, request, this.#call(options));
    return { strategy: toStrategy(present(answer.strategy, "strategy")), registered: answer.registered };
  }

  /** Shows a strategy. NotFoundError: no such name. */
  async getStrategy(name: string, options?: CallOptions): Promise<Strategy> {
    const { strategy } = await this.#connection.unary(strategies.getStrategy, { name }, this.#call(options));
    return toStrategy(present(strategy, "strategy"));
  }

  /** Lists all strategies by name. */
  async listStrategies(options?: CallOptions): Promise<Strategy[]> {
    const answer = await this.#connection.unary(strategies.listStrategies, {}, this.#call(options));
    return answer.strategies.map(toStrategy);
  }

  /** Removes a strategy that was registered by a client. FailedPreconditionError: from the file, or in use. */
  async unregisterStrategy(name: string, options?: CallOptions): Promise<void> {
    await this.#connection.unary(strategies.unregisterStrategy, { name }, this.#call(options));
  }

  /**
   * Makes sure that a strategy's cache exists; `reused` if it did. `ttlSeconds` is the life of a new one; default: the
   * strategy's.
   */
  async createOrReuseCache(strategy: string, options: CacheOptions = {}): Promise<{ cache: Cache; reused: boolean }> {
    const request = { strategy, ttl: ttlOf(options) };
    const answer = await this.#connection.unary(caches.createOrReuse, request, this.#call(options, CACHE_OPTIONS));
    return { cache: toCache(present(answer.cache, "cache")), reused: answer.reused };
  }

  /** Lets a cache live `ttlSeconds` from now; `recreated` if it had ended and was created anew. */
  async renewCache(strategy: string, options: CacheOptions = {}): Promise<{ cache: Cache; recreated: boolean }> {
    const request = { strategy, ttl: ttlOf(options) };
    const answer = await this.#connection.unary(caches.renew, request, this.#call(options, CACHE_OPTIONS));
    return { cache: toCache(present(answer.cache, "cache")), recreated: answer.recreated };
  }

  /** Deletes a strategy's cache: true if there was one. */
  async deleteCache(strategy: string, options?: CallOptions): Promise<boolean> {
    const { deleted } = await this.#connection.unary(caches.delete, { strategy }, this.#call(options));
    return deleted;
  }

  /** Shows a strategy's cache. NotFoundError: there is none. */
  async getCache(strategy: string, options?: CallOptions): Promise<Cache> {
    const { cache } = await this.#connection.unary(caches.getCache, { strategy }, this.#call(options));
    return toCache(present(cache, "cache"));
  }

  /** Lists all caches that the sidecar holds, expired ones included. */
  async listCaches(options?: CallOptions): Promise<Cache[]> {
    const answer = await this.#connection.unary(caches.listCaches, {}, this.#call(options));
    return answer.caches.map(toCache);
  }

  #call(options: CallOptions = {}, known: object = CALL_OPTIONS): CallOptions {
    checkOptions(options, known);
    return { timeoutMs: checkTimeout(options.timeoutMs ?? this.#timeoutMs), signal: options.signal };
  }
}

/** A call that may set a cache's life. */
export interface CacheOptions extends CallOptions {
  ttlSeconds?: number | undefined;
}

// The names of the options, for those who have no compiler: see checkOptions.
const CALL_OPTIONS: Record<keyof CallOptions, true> = { timeoutMs: true, signal: true };
const CACHE_OPTIONS: Record<keyof CacheOptions, true> = { ...CALL_OPTIONS, ttlSeconds: true };
const FOLLOW_OPTIONS: Record<keyof FollowOptions, true> = {
  resume: true,
  timeoutMs: true,
  signal: true,
  onProgress: true,
};
const BATCH_OPTIONS: Record<keyof BatchOptions, true> = {
  ...FOLLOW_OPTIONS,
  strategy: true,
  batchId: true,
  maxConcurrency: true,
  resultOrder: true,
  labels: true,
  resumeAfterSequence: true,
  detach: true,
};
const CLIENT_OPTIONS: Record<keyof ClientOptions, true> = {
  timeoutMs: true,
  maxMessageBytes: true,
  frameItems: true,
  frameBytes: true,
  unconfirmedItems: true,
  unconfirmedBytes: true,
  resumePolicy: true,
  clock: true,
};

function ttlOf({ ttlSeconds }: CacheOptions) {
  return ttlSeconds === undefined ? undefined : toDuration(ttlSeconds * 1000, "ttlSeconds");
}

function present<T>(value: T | undefined, name: string): T {
  if (value === undefined) {
    throw new UnexpectedError(`the server's answer has no ${name}`, { code: "OK" });
  }
  return value;
}
