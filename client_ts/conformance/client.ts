/** Adapter of the client: `node build/conformance/client.js`. */
import type { JsonObject } from "@bufbuild/protobuf";

import { toDuration, toMilliseconds } from "../src/durations.js";
import * as batches from "../src/gen/batchllm/v1/batch_service.js";
import * as caches from "../src/gen/batchllm/v1/cache_lifecycle_service.js";
import * as strategies from "../src/gen/batchllm/v1/strategy_service.js";
import * as work from "../src/gen/batchllm/v1/work.js";
import { Duration } from "../src/gen/google/protobuf/duration.js";
import {
  BatchClient,
  BatchLLMClientError,
  MessageTooLargeError,
  type Batch,
  type BatchInfo,
  type BatchOptions,
  type Cache,
  type Receipt,
  type ResumePolicy,
  type Result,
  type Strategy,
  type StrategySpec,
  type Totals,
  type WorkItem,
} from "../src/index.js";
import { Named, serve, type Answer } from "./commands.js";
import { parse } from "./protocol.js";

// -- what users give

function items(json: unknown[]): WorkItem[] {
  return json.map((one) => item(parse("WorkItem", work.WorkItem, one)));
}

function item({ timeout, ...rest }: work.WorkItem): WorkItem {
  return { ...rest, timeoutMs: timeout === undefined ? undefined : toMilliseconds(timeout) };
}

function opening(json: unknown): BatchOptions {
  const open = parse("OpenBatch", batches.OpenBatch, json);
  const orders = [undefined, "completion", "submission"] as const;
  const resumeAfterSequence = Number(open.resumeAfterSequence);
  return { ...open, resumeAfterSequence, resultOrder: orders[open.resultOrder] };
}

function policy(given: Record<string, number> = {}): Partial<ResumePolicy> {
  const names: Record<string, [keyof ResumePolicy, number]> = {
    max_tries: ["maxTries", 1],
    max_away_seconds: ["maxAwayMs", 1000],
    max_asked_seconds: ["maxAskedMs", 1000],
    initial_backoff_seconds: ["initialBackoffMs", 1000],
    max_backoff_seconds: ["maxBackoffMs", 1000],
  };
  return Object.fromEntries(
    Object.entries(given).map(([name, value]) => {
      const [key, factor] = names[name] ?? [name, 1];
      return [key, value * factor];
    }),
  );
}

function spec(message: strategies.StrategySpec): StrategySpec {
  const { cacheTtl, cacheRenewalBuffer, attemptTimeout, retry, ...rest } = message;
  const { initialWait, maxWait, ...retries } = retry ?? strategies.RetryPolicy.create();
  return {
    ...rest,
    cacheTtlSeconds: seconds(cacheTtl),
    cacheRenewalBufferSeconds: seconds(cacheRenewalBuffer),
    attemptTimeoutSeconds: seconds(attemptTimeout),
    retry:
      retry === undefined
        ? undefined
        : { ...retries, initialWaitSeconds: seconds(initialWait), maxWaitSeconds: seconds(maxWait) },
  };
}

function seconds(duration: Duration | undefined): number | undefined {
  return duration === undefined ? undefined : toMilliseconds(duration) / 1000;
}

/** Items as they are told, counted as they are taken. */
class Source implements AsyncIterable<WorkItem> {
  taken = 0;
  #ended = false;
  #wake: () => void = () => undefined;
  readonly #waiting: WorkItem[] = [];

  add(more: WorkItem[]): void {
    this.#waiting.push(...more);
    this.#wake();
  }

  end(): void {
    this.#ended = true;
    this.#wake();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<WorkItem, void, undefined> {
    for (;;) {
      for (let next = this.#waiting.shift(); next !== undefined; next = this.#waiting.shift()) {
        this.taken += 1;
        yield next;
      }
      if (this.#ended) {
        return;
      }
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }
}

// -- what users see

function ms(milliseconds: number): string {
  const { seconds: whole, nanos } = toDuration(milliseconds, "a duration");
  return `${(whole === 0n && nanos < 0 ? "-" : "") + String(whole)}.${String(Math.abs(nanos)).padStart(9, "0")}s`;
}

function shownResult(result: Result): JsonObject {
  const { ok, text, finishReason, safetyRatings, error, elapsedMs, context, receipt, usage, ...rest } = result;
  const shown = {
    ...rest,
    usage: { ...usage },
    elapsed: ms(elapsedMs),
    context: Buffer.from(context).toString("base64"),
    receipt: shownReceipt(receipt),
  };
  if (ok) {
    return { ...shown, output: { text, finishReason, safetyRatings: { ...safetyRatings } } };
  }
  const { reason, retryAfterMs, metadata, ...facts } = error;
  const retryAfter = retryAfterMs === undefined ? {} : { retryAfter: ms(retryAfterMs) };
  return {
    ...shown,
    error: { ...facts, reason: `ERROR_REASON_${reason}`, metadata: { ...metadata }, ...retryAfter },
  };
}

function shownReceipt({ advice, ...rest }: Receipt): JsonObject {
  const known = Object.entries(rest).filter(([, value]) => value !== undefined);
  return { ...(Object.fromEntries(known) as JsonObject), advice: [...advice] };
}

function shownTotals({ elapsedMs, receipt, failuresByReason, ...rest }: Totals): JsonObject {
  const cost = receipt === undefined ? {} : { receipt: shownReceipt(receipt) };
  return { ...rest, elapsed: ms(elapsedMs), failuresByReason: { ...failuresByReason }, ...cost };
}

function shownBatch({ state, createTime, updateTime, labels, totals, ...rest }: BatchInfo): JsonObject {
  const times = shownTimes({ createTime, updateTime });
  const result = totals === undefined ? {} : { batchResult: shownTotals(totals) };
  return { ...rest, state: `BATCH_STATE_${state}`, labels: { ...labels }, ...times, ...result };
}

function shownCache({ state, createTime, expireTime, ...rest }: Cache): JsonObject {
  return { ...rest, state: `CACHE_STATE_${state}`, ...shownTimes({ createTime, expireTime }) };
}

function shownTimes(times: Record<string, Date | undefined>): JsonObject {
  const known = Object.entries(times).filter(([, time]) => time !== undefined);
  return Object.fromEntries(known.map(([name, time]) => [name, time?.toISOString() ?? ""]));
}

function shownStrategy({ spec: given, source, ...rest }: Strategy): JsonObject {
  return { ...rest, source: `STRATEGY_SOURCE_${source}`, spec: inDurations(given) };
}

/** A spec in the field names of the protocol: what says seconds is a Duration there. */
function inDurations(given: object): JsonObject {
  const shown = Object.entries(given).flatMap(([key, value]: [string, unknown]): [string, unknown][] => {
    if (value === undefined) {
      return [];
    }
    if (key.endsWith("Seconds")) {
      return [[key.replace(/Seconds$/, ""), ms(Number(value) * 1000)]];
    }
    const isMessage = key === "retry" || key === "generation";
    return [[key, isMessage ? inDurations(value as object) : typeof value === "bigint" ? String(value) : value]];
  });
  return Object.fromEntries(shown) as JsonObject;
}

function shownError(error: unknown): Answer {
  if (error instanceof BatchLLMClientError) {
    const { code, message, reason, metadata, retryAfterMs } = error;
    const size =
      error instanceof MessageTooLargeError ? { item_id: error.itemId, size: error.size, limit: error.limit } : {};
    const after = retryAfterMs === undefined ? null : retryAfterMs / 1000;
    return { code, message, reason: reason ?? null, metadata: { ...metadata }, retry_after: after, ...size };
  }
  return error instanceof Error ? { code: "REFUSED", message: error.message } : undefined;
}

// -- calls

type Calls = Record<
  string,
  (client: BatchClient, request: never, options: { timeoutMs?: number }) => Promise<JsonObject>
>;

const CALLS: Calls = {
  ProcessItem: async (client, request: unknown, options) => {
    const asked = parse("ProcessItemRequest", batches.ProcessItemRequest, request);
    const given = item(asked.item ?? work.WorkItem.create());
    const { idempotencyKey } = asked;
    return { result: shownResult(await client.processItem(given, { idempotencyKey, ...options })) };
  },
  GetBatch: async (client, request: unknown, options) => {
    const { batchId } = parse("GetBatchRequest", batches.GetBatchRequest, request);
    return { batch: shownBatch(await client.getBatch(batchId, options)) };
  },
  ListBatches: async (client, request: unknown, options) => {
    const { pageSize } = parse("ListBatchesRequest", batches.ListBatchesRequest, request);
    const listed: JsonObject[] = [];
    for await (const batch of client.listBatches({ pageSize, ...options })) {
      listed.push(shownBatch(batch));
    }
    return { batches: listed };
  },
  CancelBatch: async (client, request: unknown, options) => {
    const { batchId } = parse("CancelBatchRequest", batches.CancelBatchRequest, request);
    return { batch: shownBatch(await client.cancelBatch(batchId, options)) };
  },
  DeleteBatch: async (client, request: unknown, options) => {
    await client.deleteBatch(parse("DeleteBatchRequest", batches.DeleteBatchRequest, request).batchId, options);
    return {};
  },
  RegisterStrategy: async (client, request: unknown, options) => {
    const asked = parse("RegisterStrategyRequest", strategies.RegisterStrategyRequest, request);
    const given = spec(asked.spec ?? strategies.StrategySpec.create());
    const { strategy, registered } = await client.registerStrategy(given, options);
    return { strategy: shownStrategy(strategy), registered };
  },
  GetStrategy: async (client, request: unknown, options) => {
    const { name } = parse("GetStrategyRequest", strategies.GetStrategyRequest, request);
    return { strategy: shownStrategy(await client.getStrategy(name, options)) };
  },
  ListStrategies: async (client, _: unknown, options) => {
    return { strategies: (await client.listStrategies(options)).map(shownStrategy) };
  },
  UnregisterStrategy: async (client, request: unknown, options) => {
    const { name } = parse("UnregisterStrategyRequest", strategies.UnregisterStrategyRequest, request);
    await client.unregisterStrategy(name, options);
    return {};
  },
  CreateOrReuse: async (client, request: unknown, options) => {
    const { strategy, ttl } = parse("CreateOrReuseRequest", caches.CreateOrReuseRequest, request);
    const { cache, reused } = await client.createOrReuseCache(strategy, { ttlSeconds: seconds(ttl), ...options });
    return { cache: shownCache(cache), reused };
  },
  Renew: async (client, request: unknown, options) => {
    const { strategy, ttl } = parse("RenewRequest", caches.RenewRequest, request);
    const { cache, recreated } = await client.renewCache(strategy, { ttlSeconds: seconds(ttl), ...options });
    return { cache: shownCache(cache), recreated };
  },
  Delete: async (client, request: unknown, options) => {
    const { strategy } = parse("DeleteRequest", caches.DeleteRequest, request);
    return { deleted: await client.deleteCache(strategy, options) };
  },
  GetCache: async (client, request: unknown, options) => {
    const { strategy } = parse("GetCacheRequest", caches.GetCacheRequest, request);
    return { cache: shownCache(await client.getCache(strategy, options)) };
  },
  ListCaches: async (client, _: unknown, options) => {
    return { caches: (await client.listCaches(options)).map(shownCache) };
  },
};

function inTime(timeout: number | undefined): { timeoutMs?: number } {
  return timeout === undefined ? {} : { timeoutMs: timeout * 1000 };
}

const clients = new Named<BatchClient>();
const started = new Named<Batch>();
const sources = new Named<Source>();

interface Start {
  client: string;
  batch: string;
  open: unknown;
  items: unknown[];
  more?: boolean;
  resume?: boolean;
  timeout?: number;
}

await serve(
  {
    hello: () => ({ name: "typescript", sets: ["client"] }),
    connect: (command: { client: string; target: string; resume_policy?: Record<string, number> }) => {
      const { client, target, resume_policy } = command;
      clients.set(client, new BatchClient(target, { resumePolicy: policy(resume_policy) }));
      return undefined;
    },
    close: ({ client }: { client: string }) => {
      clients.of(client).close();
      return undefined;
    },
    call: async (command: { client: string; method: string; request: never; timeout?: number }) => {
      const run = CALLS[command.method];
      if (run === undefined) {
        throw new Error(`no method ${command.method}`);
      }
      return { response: await run(clients.of(command.client), command.request, inTime(command.timeout)) };
    },
    "batch.start": (command: Start) => {
      const source = new Source();
      source.add(items(command.items));
      if (command.more !== true) {
        source.end();
      }
      sources.set(command.batch, source);
      const options = { ...opening(command.open), resume: command.resume, ...inTime(command.timeout) };
      started.set(command.batch, clients.of(command.client).processBatch(source, options));
      return undefined;
    },
    "batch.resume": async (command: {
      client: string;
      batch: string;
      batch_id: string;
      after?: number;
      timeout?: number;
    }) => {
      const { client, batch, batch_id, after, timeout } = command;
      sources.set(batch, new Source());
      started.set(batch, await clients.of(client).resumeBatch(batch_id, { after, ...inTime(timeout) }));
      return undefined;
    },
    "batch.add": (command: { batch: string; items: unknown[] }) => {
      sources.of(command.batch).add(items(command.items));
      return undefined;
    },
    "batch.end": ({ batch }: { batch: string }) => {
      sources.of(batch).end();
      return undefined;
    },
    "batch.opened": async ({ batch }: { batch: string }) => {
      const { resultOrder, ...opened } = await started.of(batch).waitOpened();
      return { opened: { ...opened, resultOrder: `RESULT_ORDER_${resultOrder.toUpperCase()}` } };
    },
    "batch.next": async ({ batch, count = Infinity }: { batch: string; count?: number }) => {
      const running = started.of(batch);
      const results: JsonObject[] = [];
      try {
        while (results.length < count) {
          const step = await running.next();
          if (step.done === true) {
            return { results, totals: shownTotals(running.totals) };
          }
          results.push(shownResult(step.value));
        }
      } catch (error) {
        const shown = shownError(error);
        if (shown === undefined) {
          throw error;
        }
        return { results, error: shown };
      }
      return { results };
    },
    "batch.status": ({ batch }: { batch: string }) => {
      const { batchId, lastSequence, progress } = started.of(batch);
      const shown = { batch_id: batchId, last_sequence: lastSequence, taken: sources.of(batch).taken };
      if (progress === undefined) {
        return shown;
      }
      const { elapsedMs, cooldownMs, ...counts } = progress;
      const cooldown = cooldownMs === undefined ? {} : { cooldown: ms(cooldownMs) };
      return { ...shown, progress: { ...counts, elapsed: ms(elapsedMs), ...cooldown } };
    },
    "batch.cancel": ({ batch }: { batch: string }) => {
      started.of(batch).cancel();
      return undefined;
    },
    "batch.leave": async ({ batch }: { batch: string }) => ({ items: await started.of(batch).leave() }),
  },
  shownError,
);
process.exit(0);
