import { toCount } from "./counts.js";
import type * as pb from "./gen/batchllm/v1/work.js";

/**
 * What an item or a batch has used, and what that costs at list prices, in nano-dollars (10^-9 USD). Receipts add up
 * exactly. The first five counts add up to the input and output tokens of all attempts.
 */
export interface Receipt {
  /** Input that came from no cache, of attempts that gave a result. */
  freshInputTokens: number;
  /** Input from a cache, likewise. */
  cachedInputTokens: number;
  /** Output without thinking, likewise. */
  outputTokens: number;
  /** Thinking, likewise. */
  thinkingTokens: number;
  /** All tokens of attempts that gave no result. */
  failedAttemptTokens: number;
  /** Cost of the tokens of that name, as far as prices are known; likewise the four that follow. */
  freshInputNanoUsd: number;
  cachedInputNanoUsd: number;
  outputNanoUsd: number;
  thinkingNanoUsd: number;
  failedAttemptNanoUsd: number;
  /** The batch's share of tokens that were read to create context caches; 0 on an item's receipt. */
  cacheCreationTokens: number;
  /** Their cost. */
  cacheCreationNanoUsd: number;
  /** The batch's share of tokens times seconds in context caches; 0 on an item's receipt. */
  cacheStorageTokenSeconds: number;
  /** Their cost. */
  cacheStorageNanoUsd: number;
  /** The sum of all costs above; undefined when the price of any part is not known. */
  totalNanoUsd: number | undefined;
  /** What the same calls would have cost without any cache; undefined when the price of any part is not known. */
  uncachedNanoUsd: number | undefined;
  /** Tokens whose price is not known. */
  unpricedTokens: number;
  /** Storage whose price is not known, in tokens times seconds. */
  unpricedTokenSeconds: number;
  /** In no total: what the batch's context caches will still cost, unless somebody deletes them. */
  storageUntilExpiryNanoUsd: number;
  /** Day of the price table, as `YYYY-MM-DD`, the oldest of several; undefined when no strategy has prices. */
  priceDate: string | undefined;
  /** What would be cheaper; on a batch's receipt only. */
  advice: readonly string[];
}

export function toReceipt(message: pb.Receipt): Receipt {
  return {
    freshInputTokens: toCount(message.freshInputTokens),
    cachedInputTokens: toCount(message.cachedInputTokens),
    outputTokens: toCount(message.outputTokens),
    thinkingTokens: toCount(message.thinkingTokens),
    failedAttemptTokens: toCount(message.failedAttemptTokens),
    freshInputNanoUsd: toCount(message.freshInputNanoUsd),
    cachedInputNanoUsd: toCount(message.cachedInputNanoUsd),
    outputNanoUsd: toCount(message.outputNanoUsd),
    thinkingNanoUsd: toCount(message.thinkingNanoUsd),
    failedAttemptNanoUsd: toCount(message.failedAttemptNanoUsd),
    cacheCreationTokens: toCount(message.cacheCreationTokens),
    cacheCreationNanoUsd: toCount(message.cacheCreationNanoUsd),
    cacheStorageTokenSeconds: toCount(message.cacheStorageTokenSeconds),
    cacheStorageNanoUsd: toCount(message.cacheStorageNanoUsd),
    totalNanoUsd: message.totalNanoUsd === undefined ? undefined : toCount(message.totalNanoUsd),
    uncachedNanoUsd: message.uncachedNanoUsd === undefined ? undefined : toCount(message.uncachedNanoUsd),
    unpricedTokens: toCount(message.unpricedTokens),
    unpricedTokenSeconds: toCount(message.unpricedTokenSeconds),
    storageUntilExpiryNanoUsd: toCount(message.storageUntilExpiryNanoUsd),
    priceDate: message.priceDate || undefined,
    advice: message.advice,
  };
}

/** The receipt that an item's usage stands for: at most one attempt, without prices. */
export function receiptOfUsage(usage: pb.TokenUsage, ok: boolean): Receipt {
  const [input, output, cached] = [
    toCount(usage.inputTokens),
    toCount(usage.outputTokens),
    toCount(usage.cachedInputTokens),
  ];
  const tokens = input + output;
  const thinking = Math.min(toCount(usage.thinkingTokens), output);
  const total = tokens > 0 ? undefined : 0;
  return {
    freshInputTokens: ok ? input - cached : 0,
    cachedInputTokens: ok ? cached : 0,
    outputTokens: ok ? output - thinking : 0,
    thinkingTokens: ok ? thinking : 0,
    failedAttemptTokens: ok ? 0 : tokens,
    freshInputNanoUsd: 0,
    cachedInputNanoUsd: 0,
    outputNanoUsd: 0,
    thinkingNanoUsd: 0,
    failedAttemptNanoUsd: 0,
    cacheCreationTokens: 0,
    cacheCreationNanoUsd: 0,
    cacheStorageTokenSeconds: 0,
    cacheStorageNanoUsd: 0,
    totalNanoUsd: total,
    uncachedNanoUsd: total,
    unpricedTokens: tokens,
    unpricedTokenSeconds: 0,
    storageUntilExpiryNanoUsd: 0,
    priceDate: undefined,
    advice: [],
  };
}
