/** What needs no server: errors, the window, durations, counts, tries, specs. */
import assert from "node:assert/strict";
import { test } from "node:test";

import { Metadata, status } from "@grpc/grpc-js";

import { channelOptions } from "../src/channel.js";
import { toCount } from "../src/counts.js";
import { toDuration, toMilliseconds } from "../src/durations.js";
import { fromServiceError } from "../src/errors.js";
import { encode, FRAME_BYTES, itemsFrame, within, type Limits } from "../src/frames.js";
import { ProcessBatchRequest } from "../src/gen/batchllm/v1/batch_service.js";
import { StrategySource, StrategySpec as SpecMessage } from "../src/gen/batchllm/v1/strategy_service.js";
import * as api from "../src/index.js";
import { nameOf } from "../src/model.js";
import { BROKEN_TRANSPORT_CODES, Retries, RESUMABLE_CODES, TERMINAL_CODES, toPolicy } from "../src/resume.js";
import { toSpecMessage, toStrategy } from "../src/strategies.js";
import { DETAILS_KEY } from "../src/status.js";
import { Window } from "../src/window.js";
import { richStatus } from "./fake.js";
import { items } from "./helpers.js";

const LIMITS: Limits = {
  frameItems: 3,
  frameBytes: 1000,
  maxMessageBytes: 1000,
  unconfirmedItems: 10,
  unconfirmedBytes: 10_000,
};

function serviceError(code: api.StatusCode, details?: Uint8Array) {
  const metadata = new Metadata();
  if (details !== undefined) {
    metadata.set(DETAILS_KEY, Buffer.from(details));
  }
  return Object.assign(new Error("raw"), { code: status[code], details: "no, because", metadata });
}

test("each code has its class, and details are kept", () => {
  const classes: [api.StatusCode, new (message: string) => api.BatchLLMClientError][] = [
    ["UNAVAILABLE", api.SidecarUnavailableError],
    ["INVALID_ARGUMENT", api.InvalidRequestError],
    ["OUT_OF_RANGE", api.InvalidRequestError],
    ["NOT_FOUND", api.NotFoundError],
    ["ALREADY_EXISTS", api.AlreadyExistsError],
    ["PERMISSION_DENIED", api.PermissionDeniedError],
    ["UNAUTHENTICATED", api.PermissionDeniedError],
    ["FAILED_PRECONDITION", api.FailedPreconditionError],
    ["ABORTED", api.AbortedError],
    ["DEADLINE_EXCEEDED", api.DeadlineExceededError],
    ["RESOURCE_EXHAUSTED", api.ResourceExhaustedError],
    ["CANCELLED", api.CallCancelledError],
    ["DATA_LOSS", api.UnexpectedError],
  ];
  for (const [code, expected] of classes) {
    const error = fromServiceError(serviceError(code), "t");
    assert.deepEqual([error.constructor, error.code, error.name], [expected, code, expected.name]);
  }
  const details = richStatus({ reason: "SERVER_DRAINING", metadata: { a: "b" }, retryAfterMs: 1500 });
  const error = fromServiceError(serviceError("UNAVAILABLE", details), "t");
  assert.ok(error instanceof api.ServerDrainingError && error instanceof api.SidecarUnavailableError);
  assert.deepEqual([error.reason, error.metadata, error.retryAfterMs], ["SERVER_DRAINING", { a: "b" }, 1500]);
  assert.equal(error.message, "no, because");
});

test("other domains and garbage are passed over", () => {
  for (const details of [richStatus({ reason: "OTHER" }, "elsewhere"), Uint8Array.of(255, 255), new Uint8Array()]) {
    const error = fromServiceError(serviceError("NOT_FOUND", details), "t");
    assert.deepEqual([error.reason, error.metadata, error.retryAfterMs], [undefined, {}, undefined]);
  }
});

test("where gRPC speaks, the target and the way out are named", () => {
  const { message } = fromServiceError(serviceError("UNAVAILABLE"), "unix:/x");
  assert.match(message, /no batch-llm sidecar answers at unix:\/x \(no, because\): start one with/);
});

test("an item is too large at the very byte", () => {
  const item = { itemId: "1", prompt: "x".repeat(200) };
  const { cost } = encode(item, 1000);
  assert.ok(itemsFrame([encode(item, 1000)]).length <= cost + FRAME_BYTES);
  assert.equal(encode(item, cost + FRAME_BYTES).cost, cost);
  assert.throws(() => encode(item, cost + FRAME_BYTES - 1), { size: cost + FRAME_BYTES, itemId: "1" });
});

test("frames are what the generated code would make", () => {
  const work = items(3);
  const sent = ProcessBatchRequest.decode(itemsFrame(work.map((item) => encode(item, 1000))));
  assert.deepEqual(
    sent.items?.items.map(({ itemId, prompt }) => ({ itemId, prompt })),
    work,
  );
});

test("frames are bounded by count and bytes, and a large item goes alone", () => {
  const limits = { ...LIMITS, frameItems: 100, frameBytes: 100 };
  const window = new Window(limits);
  const small = encode({ itemId: "1", prompt: "x".repeat(20) }, 1000);
  const large = encode({ itemId: "2", prompt: "x".repeat(300) }, 1000);
  for (const item of [small, small, small, small, large, small]) {
    window.add(item);
  }
  const lengths = [];
  while (window.waiting) {
    lengths.push(ProcessBatchRequest.decode(window.take()).items?.items.length);
  }
  assert.deepEqual(lengths, [3, 1, 1, 1]);
});

test("what is not confirmed is bounded, kept in order and sent again", () => {
  const window = new Window(LIMITS);
  const encoded = items(12).map((item) => encode(item, 1000));
  for (const item of encoded.slice(0, 10)) {
    if (!window.fits(item.cost)) {
      window.take();
    }
    window.add(item);
  }
  window.take();
  assert.ok(!window.fits(1));
  window.confirm(4);
  assert.ok(window.fits(1));
  assert.throws(() => {
    window.confirm(11);
  }, /confirmed 11 items of a stream that has 10/);
  window.rewind();
  assert.equal(window.size, 6);
  const again = ProcessBatchRequest.decode(window.take()).items?.items.map((item) => item.itemId);
  assert.deepEqual(again, ["4", "5", "6"]);
  window.confirm(3);
  assert.equal(window.size, 3);
  assert.ok(!new Window({ ...LIMITS, unconfirmedBytes: 10 }).waiting);
  const heavy = new Window({ ...LIMITS, unconfirmedBytes: 10 });
  assert.ok(heavy.fits(500)); // an empty one takes any
  heavy.add(encode({ itemId: "1", prompt: "x" }, 1000));
  heavy.take();
  assert.ok(!heavy.fits(5));
});

test("limits are clamped to the server's", () => {
  assert.deepEqual(within(LIMITS, 500), { ...LIMITS, maxMessageBytes: 500, frameBytes: 500 });
  assert.deepEqual(within(LIMITS, 0), LIMITS);
});

test("durations to the nanosecond, there and back", () => {
  assert.deepEqual(toDuration(1500.000001, "x"), { seconds: 1n, nanos: 500_000_001 });
  assert.deepEqual(toDuration(-1500, "x"), { seconds: -1n, nanos: -500_000_000 });
  assert.deepEqual(toDuration(999.9999999, "x"), { seconds: 1n, nanos: 0 });
  assert.equal(toMilliseconds({ seconds: 2n, nanos: 250_000 }), 2000.25);
  for (const value of [NaN, Infinity, 1e300]) {
    assert.throws(() => toDuration(value, "an item's timeoutMs"), /an item's timeoutMs must be a finite number/);
  }
});

test("a count that a number cannot hold is refused", () => {
  assert.equal(toCount(2n ** 53n - 1n), Number.MAX_SAFE_INTEGER);
  assert.throws(() => toCount(2n ** 53n), api.UnexpectedError);
});

test("every code is resumable or terminal", () => {
  const sets = [RESUMABLE_CODES, BROKEN_TRANSPORT_CODES, TERMINAL_CODES];
  const names = Object.keys(status).filter((name) => Number.isNaN(Number(name)));
  for (const name of names) {
    assert.equal(sets.filter((set) => set.has(name as api.StatusCode)).length, 1, name);
  }
});

test("time away is bounded, and time on a stream does not count", () => {
  let now = 0;
  const clock = { now: () => now, random: () => 0 };
  const retries = new Retries(toPolicy({ maxAwayMs: 10, maxTries: 100 }), undefined, clock);
  const error = new api.SidecarUnavailableError("gone", { code: "UNAVAILABLE" });
  for (const away of [4, 2]) {
    retries.delay(error);
    now += away;
    retries.connected();
    now += 1000;
  }
  retries.delay(error);
  now += 3;
  retries.delay(error);
  now += 1;
  assert.throws(() => retries.delay(error), error);
  retries.progress();
  retries.connected();
  retries.delay(error);
});

test("what the server asks for is counted apart, and bounded", () => {
  const clock = { now: () => 0, random: () => 0.5 };
  const retries = new Retries(toPolicy({ maxAskedMs: 4500, maxTries: 0 }), undefined, clock);
  const asking = (retryAfterMs: number) =>
    new api.ServerDrainingError("drains", { code: "UNAVAILABLE", reason: "SERVER_DRAINING", retryAfterMs });
  assert.equal(retries.delay(asking(2000)), 2100);
  for (const _ of [1, 2]) {
    assert.equal(retries.delay(asking(1)), 101); // counted as a second
  }
  assert.throws(() => retries.delay(asking(2000)), api.ServerDrainingError);
  assert.throws(() => new Retries(undefined, undefined, clock).delay(asking(1)), api.ServerDrainingError);
});

test("a spec's keys are those of the operator's file", () => {
  const message = toSpecMessage({
    name: "triage",
    provider: "simulated",
    cacheTtlSeconds: 0.5,
    outputJsonSchema: { type: "object" },
    cacheTags: { a: "b" },
    autoRenew: undefined,
    retry: { maxAttempts: 2, initialWaitSeconds: 1.5 },
    generation: { temperature: 0, seed: 2n ** 60n, stopSequences: ["x"] },
  });
  assert.deepEqual(message.cacheTtl, { seconds: 0n, nanos: 500_000_000 });
  assert.equal(message.outputJsonSchema, '{"type":"object"}');
  assert.deepEqual(message.retry?.initialWait, { seconds: 1n, nanos: 500_000_000 });
  const decoded = SpecMessage.decode(SpecMessage.encode(message).finish());
  const { spec } = toStrategy({
    spec: decoded,
    providerKind: "",
    source: StrategySource.RPC,
    prepared: false,
    users: 0,
  });
  assert.deepEqual(
    [spec.cacheTtlSeconds, spec.attemptTimeoutSeconds, spec.retry?.initialWaitSeconds, spec.retry?.maxAttempts],
    [0.5, undefined, 1.5, 2],
  );
  assert.deepEqual([spec.generation?.seed, spec.generation?.temperature], [2n ** 60n, 0]);
  assert.ok(!("cacheTtl" in spec) && !("initialWait" in (spec.retry ?? {})));
});

test("an unknown key of a spec is refused by its name", () => {
  const unknown = { name: "x", provider: "p", retry: { maxWait: 5 } } as unknown as api.StrategySpec;
  assert.throws(() => toSpecMessage(unknown), /no key retry.maxWait; there are: .*retry.maxWaitSeconds/);
  const typo = { name: "x", provider: "p", modell: "m" } as unknown as api.StrategySpec;
  assert.throws(() => toSpecMessage(typo), /no key modell; there are: name, provider, model, /);
});

test("a name that a newer server knows", () => {
  assert.equal(nameOf({ UNSPECIFIED: 0 }, 99), "UNSPECIFIED");
});

test("the connection is kept alive, and no proxy comes between", () => {
  const options = channelOptions(5);
  assert.equal(options["grpc.keepalive_time_ms"], 10_000);
  assert.equal(options["grpc.keepalive_timeout_ms"], 10_000);
  assert.equal(options["grpc.enable_http_proxy"], 0);
  assert.equal(options["grpc.max_receive_message_length"], -1);
});
