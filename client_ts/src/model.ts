/** What goes in and what comes out: work items, results, totals. */
import { toCount } from "./counts.js";
import { toMilliseconds } from "./durations.js";
import type { Reason } from "./errors.js";
import * as batches from "./gen/batchllm/v1/batch_service.js";
import * as caches from "./gen/batchllm/v1/cache_lifecycle_service.js";
import { ErrorReason } from "./gen/batchllm/v1/errors.js";
import * as work from "./gen/batchllm/v1/work.js";
import { receiptOfUsage, toReceipt, type Receipt } from "./receipt.js";

/**
 * The order in which results come: `completion`, as items finish; `submission`, as items were sent, so that results
 * wait for those before them.
 */
export type ResultOrder = "completion" | "submission";

/**
 * One piece of work. The sidecar checks it: a bad item ends in a result with reason `INVALID_ITEM`, and others go on.
 */
export interface WorkItem {
  /** Your name for it, unique in its batch; 1 to 512 bytes, not blank. */
  itemId: string;
  /** What the model is asked, not empty. */
  prompt: string;
  /** Name of the strategy that runs it. Default: the batch's. */
  strategy?: string | undefined;
  /** Opaque bytes that come back with the result. */
  context?: Uint8Array | undefined;
  /** Limit in milliseconds on its whole time in the sidecar, waiting and retries included. Default: none. */
  timeoutMs?: number | undefined;
}

/** Tokens as the provider counted them, summed over an item's attempts. */
export interface Usage {
  /** Prompt tokens, cached ones included. */
  inputTokens: number;
  /** Generated tokens, thinking included. */
  outputTokens: number;
  /** Total as the provider reports it. */
  totalTokens: number;
  /** Prompt tokens read from a context cache; part of `inputTokens`. */
  cachedInputTokens: number;
  /** Tokens spent on thinking; part of `outputTokens`. */
  thinkingTokens: number;
  /** Input tokens weighted by price: input minus cached times the model's discount, rounded up. */
  effectiveInputTokens: number;
}

/** Why an item has no output. */
export interface ItemFailure {
  /** The reason to branch on, e.g. `RATE_LIMITED`; `UNSPECIFIED` if unknown here. */
  reason: Reason;
  /** For people: what happened and the way out. */
  message: string;
  /** Whether sending the item again later may succeed. */
  retryable: boolean;
  /** Milliseconds that the provider asked to wait; undefined when it did not say. */
  retryAfterMs: number | undefined;
  /** Facts behind the reason. */
  metadata: Readonly<Record<string, string>>;
}

interface AnyResult {
  /** The item's id, as it was sent. */
  itemId: string;
  /** Tokens of all attempts, failed ones included. */
  usage: Usage;
  /** Tokens of all attempts by kind, and what they cost. */
  receipt: Receipt;
  /** How many calls were made; 0 when the item never reached its provider. */
  attempts: number;
  /** Milliseconds from acceptance to result. */
  elapsedMs: number;
  /** Name of the strategy that ran it. */
  strategy: string;
  /** The model that answered; empty when none did. */
  model: string;
  /** The item's context, untouched. */
  context: Uint8Array;
  /** The item's place in the stream, from 0. */
  submissionIndex: number;
  /** The result's place in the batch, from 1, without gaps. */
  sequence: number;
  /** Whether it was recorded before, and is sent again: by a batch resumed, or for an idempotency key. */
  replayed: boolean;
  /** Whether the item may have been with its provider when a sidecar died, so that it may be billed twice. */
  maybeBilled: boolean;
}

/** The result of an item that has an output. */
export interface Success extends AnyResult {
  ok: true;
  /** The model's answer. */
  text: string;
  /** Why the model stopped, in the provider's word. */
  finishReason: string;
  /** Safety category to rating, where the provider rates. */
  safetyRatings: Readonly<Record<string, string>>;
  error: undefined;
}

/** The result of an item that failed. */
export interface Failure extends AnyResult {
  ok: false;
  text: undefined;
  finishReason: undefined;
  safetyRatings: undefined;
  /** Why there is no output. */
  error: ItemFailure;
}

/** The one terminal result of an item; `ok` tells which. */
export type Result = Success | Failure;

/** What is in force for a batch. */
export interface BatchOpened {
  /** Yours, or the one that the client made. */
  batchId: string;
  /** Strategy of the items that name none; may be empty. */
  strategy: string;
  /** At most so many of the batch's items in flight, after clamping. */
  maxConcurrency: number;
  /** The order of results. */
  resultOrder: ResultOrder;
  /** The largest message that the server takes, in bytes. */
  maxMessageBytes: number;
  /** E.g. `0.3.0`. */
  serverVersion: string;
  /** Items that the sidecar held already; 0 for a new batch. */
  items: number;
  /** Sequence of the last result recorded; 0 for a new batch. */
  lastSequence: number;
  /** Whether what is accepted outlives the sidecar. */
  durable: boolean;
}

/** How far a batch is. The server sends it at most once a second. */
export interface Progress {
  /** Items that ended, failed ones included. */
  done: number;
  /** Items that failed. */
  failed: number;
  /** Items that are being run. */
  inFlight: number;
  /** Items that wait to be run. */
  waiting: number;
  /** Input tokens so far. */
  inputTokens: number;
  /** Output tokens so far. */
  outputTokens: number;
  /** Cached input tokens so far. */
  cachedInputTokens: number;
  /** Milliseconds since the batch was opened. */
  elapsedMs: number;
  /** The longest pause still to come of the quotas that the batch uses, in milliseconds; undefined without one. */
  cooldownMs: number | undefined;
}

/** The totals of a batch. */
export interface Totals {
  /** The batch's id. */
  batchId: string;
  /** Items that ended. */
  totalItems: number;
  /** Of these, with an output. */
  succeeded: number;
  /** Of these, without. */
  failed: number;
  /** Sum of the items' input tokens. */
  totalInputTokens: number;
  /** Sum of the items' output tokens. */
  totalOutputTokens: number;
  /** Sum of the items' cached input tokens. */
  totalCachedTokens: number;
  /** Percent of input tokens that came from a cache, 0.0 to 100.0. */
  cacheHitRate: number;
  /** Input minus cached times each model's discount, rounded up once. */
  effectiveInputTokens: number;
  /** Milliseconds from opening to the last result. */
  elapsedMs: number;
  /** Failed items by reason, e.g. `{ RATE_LIMITED: 2 }`. */
  failuresByReason: Readonly<Record<string, number>>;
  /** Tokens by kind and their cost, context caches included; undefined from a server that has no receipts yet. */
  receipt: Receipt | undefined;
}

/** How far a batch is, as the journal knows it. */
export type BatchState = Exclude<keyof typeof batches.BatchState, "UNSPECIFIED">;

/** A batch, as the journal knows it. */
export interface BatchInfo {
  /** Its id. */
  batchId: string;
  /** `OPEN`: items may still come. `SEALED`: all are there. `FINISHED` or `CANCELLED`: every item has its result. */
  state: BatchState | "UNSPECIFIED";
  /** Whether a sidecar runs it now, with or without a client. */
  running: boolean;
  /** Whether it goes on without a client. */
  detach: boolean;
  /** When it was opened first. */
  createTime: Date | undefined;
  /** When it was last written. */
  updateTime: Date | undefined;
  /** Items accepted. */
  items: number;
  /** Items that ended. */
  done: number;
  /** Of these, failed ones. */
  failed: number;
  /** Sequence of the last result. */
  lastSequence: number;
  /** The labels it was opened with. */
  labels: Readonly<Record<string, string>>;
  /** The totals; undefined until it has ended. */
  totals: Totals | undefined;
}

/** A context cache. */
export interface Cache {
  /** Its name, as the provider calls it. */
  name: string;
  /** The strategy that was asked for; in a list, the one that created it. */
  strategy: string;
  /** Name of the provider. */
  provider: string;
  /** The model it was made for. */
  model: string;
  /** SHA-256 in hex over model, content, instruction and tags: its identity. */
  fingerprint: string;
  /** When it was created. */
  createTime: Date | undefined;
  /** When it ends unless it is renewed. */
  expireTime: Date | undefined;
  /** Tokens it holds. */
  totalTokenCount: number;
  /** How it is, e.g. `ACTIVE`; `UNCACHED_…`: items carry the content themselves, `message` says why. */
  state: keyof typeof caches.CacheState;
  /** For people: why items run without it; empty unless `state` is `UNCACHED_…`. */
  message: string;
}

export function toResult(message: work.WorkItemResult): Result {
  const usage = message.usage ?? NO_USAGE;
  const { output, error } = message;
  const receipt =
    message.receipt === undefined ? receiptOfUsage(usage, output !== undefined) : toReceipt(message.receipt);
  const rest = {
    usage: toUsage(usage),
    receipt,
    attempts: message.attempts,
    elapsedMs: toMilliseconds(message.elapsed),
    strategy: message.strategy,
    model: message.model,
    context: new Uint8Array(message.context), // a copy: the message's is a view of the whole frame
    submissionIndex: toCount(message.submissionIndex),
    sequence: toCount(message.sequence),
    replayed: message.replayed,
    maybeBilled: message.maybeBilled,
  };
  if (output !== undefined) {
    const { text, finishReason, safetyRatings } = output;
    return { itemId: message.itemId, ok: true, text, finishReason, safetyRatings, error: undefined, ...rest };
  }
  const none = { text: undefined, finishReason: undefined, safetyRatings: undefined };
  return { itemId: message.itemId, ok: false, ...none, error: toItemFailure(error), ...rest };
}

export function toOpened(message: batches.BatchOpened): BatchOpened {
  return {
    batchId: message.batchId,
    strategy: message.strategy,
    maxConcurrency: message.maxConcurrency,
    resultOrder: message.resultOrder === batches.ResultOrder.SUBMISSION ? "submission" : "completion",
    maxMessageBytes: toCount(message.maxMessageBytes),
    serverVersion: message.serverVersion,
    items: toCount(message.items),
    lastSequence: toCount(message.lastSequence),
    durable: message.durable,
  };
}

export function toProgress(message: batches.BatchProgress): Progress {
  return {
    done: toCount(message.done),
    failed: toCount(message.failed),
    inFlight: toCount(message.inFlight),
    waiting: toCount(message.waiting),
    inputTokens: toCount(message.inputTokens),
    outputTokens: toCount(message.outputTokens),
    cachedInputTokens: toCount(message.cachedInputTokens),
    elapsedMs: toMilliseconds(message.elapsed),
    cooldownMs: message.cooldown === undefined ? undefined : toMilliseconds(message.cooldown),
  };
}

export function toTotals(message: work.BatchResult): Totals {
  const failures = Object.entries(message.failuresByReason).map(([reason, count]) => [reason, toCount(count)]);
  return {
    batchId: message.batchId,
    totalItems: toCount(message.totalItems),
    succeeded: toCount(message.succeeded),
    failed: toCount(message.failed),
    totalInputTokens: toCount(message.totalInputTokens),
    totalOutputTokens: toCount(message.totalOutputTokens),
    totalCachedTokens: toCount(message.totalCachedTokens),
    cacheHitRate: message.cacheHitRate,
    effectiveInputTokens: toCount(message.effectiveInputTokens),
    elapsedMs: toMilliseconds(message.elapsed),
    failuresByReason: Object.fromEntries(failures) as Record<string, number>,
    receipt: message.receipt === undefined ? undefined : toReceipt(message.receipt),
  };
}

export function toBatchInfo(message: batches.BatchInfo): BatchInfo {
  return {
    batchId: message.batchId,
    state: nameOf(batches.BatchState, message.state),
    running: message.running,
    detach: message.detach,
    createTime: message.createTime,
    updateTime: message.updateTime,
    items: toCount(message.items),
    done: toCount(message.done),
    failed: toCount(message.failed),
    lastSequence: toCount(message.lastSequence),
    labels: message.labels,
    totals: message.batchResult === undefined ? undefined : toTotals(message.batchResult),
  };
}

export function toCache(message: caches.Cache): Cache {
  const { name, strategy, provider, model, fingerprint, createTime, expireTime } = message;
  return {
    ...{ name, strategy, provider, model, fingerprint, createTime, expireTime },
    totalTokenCount: toCount(message.totalTokenCount),
    state: nameOf(caches.CacheState, message.state),
    message: message.message,
  };
}

/** The name of an enum's value. Enums are open: a newer server may send a number that has no name here. */
export function nameOf<Name extends string>(names: Record<Name, number>, value: number): Name | "UNSPECIFIED" {
  return (names as unknown as Record<number, Name | undefined>)[value] ?? "UNSPECIFIED";
}

const NO_USAGE = work.TokenUsage.create();

function toUsage(usage: work.TokenUsage): Usage {
  return {
    inputTokens: toCount(usage.inputTokens),
    outputTokens: toCount(usage.outputTokens),
    totalTokens: toCount(usage.totalTokens),
    cachedInputTokens: toCount(usage.cachedInputTokens),
    thinkingTokens: toCount(usage.thinkingTokens),
    effectiveInputTokens: toCount(usage.effectiveInputTokens),
  };
}

function toItemFailure(error: work.ItemError | undefined): ItemFailure {
  return {
    reason: nameOf(ErrorReason, error?.reason ?? 0),
    message: error?.message ?? "",
    retryable: error?.retryable ?? false,
    retryAfterMs: error?.retryAfter === undefined ? undefined : toMilliseconds(error.retryAfter),
    metadata: error?.metadata ?? {},
  };
}
