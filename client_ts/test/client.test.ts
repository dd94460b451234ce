/** The client against a server of this process: frames, limits, ends. */
import assert from "node:assert/strict";
import { test } from "node:test";

import {
  BatchClient,
  CallCancelledError,
  ClientClosedError,
  DeadlineExceededError,
  InvalidRequestError,
  MessageTooLargeError,
  NotFoundError,
  SidecarUnavailableError,
  UnexpectedError,
  type ResultOrder,
  type WorkItem,
} from "../src/index.js";
import { FakeSidecar, Fault, frame, requestsOf, type Call } from "./fake.js";
import { Folder } from "./folder.js";
import { Gate, items, numbers, outcomeOf, sequencesOf, until } from "./helpers.js";

test("a batch", async () => {
  await using sidecar = await FakeSidecar.start();
  await using client = new BatchClient(sidecar.target);
  const reports: number[] = [];
  const batch = client.processBatch([{ itemId: "1", prompt: "hi", context: Uint8Array.of(0, 255), timeoutMs: 1500 }], {
    strategy: "s",
    onProgress: (progress) => reports.push(progress.done),
  });
  assert.equal((await batch.waitOpened()).serverVersion, "0.3.0");
  const { results, error } = await outcomeOf(batch);
  assert.equal(error, undefined);
  const [result] = results;
  assert.ok(result?.ok);
  assert.equal(result.text, "hi");
  assert.deepEqual(result.context, Uint8Array.of(0, 255));
  assert.deepEqual([result.elapsedMs, result.sequence, result.usage.inputTokens], [250, 1, 10]);
  assert.deepEqual([result.receipt.freshInputTokens, result.receipt.totalNanoUsd], [5, undefined]);
  assert.deepEqual([batch.totals.succeeded, batch.totals.elapsedMs], [1, 500]);
  assert.deepEqual([reports, batch.progress?.elapsedMs], [[1], 1000]);
  assert.deepEqual(sidecar.frames[0]?.[0]?.timeout, { seconds: 1n, nanos: 500_000_000 });
  assert.equal(batch.opened?.resultOrder, "completion");
  assert.ok(JSON.stringify(results).includes('"text":"hi"'));
  assert.equal((await batch.next()).done, true);
});

test("a Unix socket", async () => {
  await using folder = await Folder.make();
  await using sidecar = await FakeSidecar.start(`unix:${folder.path}/x.sock`);
  await using client = new BatchClient(sidecar.target);
  assert.deepEqual(sequencesOf(await outcomeOf(client.processBatch(items(3)))), [1, 2, 3]);
});

test("items go in full frames where they are at hand, and in order", async () => {
  await using sidecar = await FakeSidecar.start();
  await using client = new BatchClient(sidecar.target, { frameItems: 10 });
  for (const work of [
    items(35),
    items(35).values(),
    (async function* () {
      yield* items(35);
    })(),
  ]) {
    sidecar.frames.length = 0;
    assert.equal((await outcomeOf(client.processBatch(work))).results.length, 35);
    assert.deepEqual(
      sidecar.frames.map((sent) => sent.length),
      [10, 10, 10, 5],
    );
    assert.deepEqual(
      sidecar.frames.flat().map((item) => item.itemId),
      numbers(35).map(String),
    );
  }
});

test("nothing to do", async () => {
  await using sidecar = await FakeSidecar.start();
  await using client = new BatchClient(sidecar.target);
  const batch = client.processBatch([]);
  assert.deepEqual((await outcomeOf(batch)).results, []);
  assert.equal(batch.totals.totalItems, 0);
});

test("frames obey the server's limit, and one item over it is refused before sending", async () => {
  await using sidecar = await FakeSidecar.start();
  sidecar.maxMessageBytes = 1000;
  await using client = new BatchClient(sidecar.target);
  const work: WorkItem[] = numbers(10).map((number) => ({ itemId: `${number}`, prompt: "x".repeat(300) }));
  assert.equal((await outcomeOf(client.processBatch(work))).results.length, 10);
  assert.deepEqual(
    sidecar.frames.map((sent) => sent.length),
    [3, 3, 3, 1],
  );
  const { error } = await outcomeOf(client.processBatch([...work, { itemId: "big", prompt: "x".repeat(1000) }]));
  assert.ok(error instanceof MessageTooLargeError);
  assert.deepEqual([error.itemId, error.limit, error.size > 1000], ["big", 1000, true]);
  assert.equal(sidecar.journal.size, 2);
  assert.ok([...sidecar.journal.values()].every((log) => !log.items.has("big")));
});

test("one item that is too large", async () => {
  await using sidecar = await FakeSidecar.start();
  await using client = new BatchClient(sidecar.target, { maxMessageBytes: 100 });
  await assert.rejects(client.processItem({ itemId: "1", prompt: "x".repeat(100) }), MessageTooLargeError);
  assert.equal(sidecar.requests.length, 0);
});

test("items are not held back while the source waits", async () => {
  await using sidecar = await FakeSidecar.start();
  await using client = new BatchClient(sidecar.target);
  const answered = new Gate();
  async function* source() {
    yield* items(1);
    await answered.passed;
    yield* items(2, 1);
  }
  const batch = client.processBatch(source());
  assert.equal((await batch.next()).value?.itemId, "0");
  answered.open();
  assert.equal((await batch.next()).value?.itemId, "1");
  assert.equal((await batch.next()).done, true);
});

test("a slow reader pauses the stream", async () => {
  await using sidecar = await FakeSidecar.start();
  let written = 0;
  sidecar.script = async function* (call: Call) {
    for await (const answer of sidecar.echo(call)) {
      written += answer.results === undefined ? 0 : 1;
      yield answer;
    }
  };
  await using client = new BatchClient(sidecar.target);
  const work = numbers(100).map((number) => ({ itemId: `${number}`, prompt: "x".repeat(100_000) }));
  const batch = client.processBatch(work);
  await batch.next();
  let before = 0;
  await until(() => {
    const still = written === before;
    before = written;
    return still && written > 0;
  });
  assert.ok(written < 25, `${written} results went to a reader that took one`);
  assert.equal((await outcomeOf(batch)).results.length, 99);
});

test("leaving the loop early cancels the stream and lets go of the source", async () => {
  await using sidecar = await FakeSidecar.start();
  await using client = new BatchClient(sidecar.target);
  let released = false;
  async function* source() {
    try {
      for (const item of items(1_000_000)) {
        await new Promise(setImmediate);
        yield item;
      }
    } finally {
      released = true;
    }
  }
  const batch = client.processBatch(source());
  for await (const result of batch) {
    assert.equal(result.sequence, 1);
    break;
  }
  await until(() => released && sidecar.brokenOff.size === 1);
  assert.throws(() => batch.totals, /come at its end/);
  assert.ok(![...sidecar.journal.values()][0]?.sealed);
});

test("a source that waits is let go of at once", async () => {
  await using sidecar = await FakeSidecar.start();
  await using client = new BatchClient(sidecar.target);
  const released = new Gate();
  const source = {
    [Symbol.asyncIterator]: () => ({
      next: () => new Promise<IteratorResult<WorkItem>>(() => undefined),
      return: () => {
        released.open();
        return Promise.resolve({ done: true as const, value: undefined });
      },
    }),
  };
  const batch = client.processBatch(source);
  await batch.waitOpened();
  batch.cancel();
  await released.passed;
});

test("`await using` cancels a batch", async () => {
  await using sidecar = await FakeSidecar.start();
  await using client = new BatchClient(sidecar.target);
  {
    await using batch = client.processBatch(items(3));
    await batch.waitOpened();
  }
  await until(() => sidecar.brokenOff.size === 1);
});

test("what the source throws is thrown, and no half-close is sent", async () => {
  await using sidecar = await FakeSidecar.start();
  await using client = new BatchClient(sidecar.target);
  function* broken() {
    yield* items(3);
    throw new SyntaxError("row 4");
  }
  await assert.rejects(async () => {
    for await (const _ of client.processBatch(broken()));
  }, SyntaxError);
  const notAnItem = { itemId: 5, prompt: "hi" } as unknown as WorkItem;
  const { error } = await outcomeOf(client.processBatch([...items(1), notAnItem]));
  assert.match(String(error), /itemId must be a string, not number/);
  assert.ok([...sidecar.journal.values()].every((log) => !log.sealed));
});

test("what onProgress throws ends the batch", async () => {
  await using sidecar = await FakeSidecar.start();
  await using client = new BatchClient(sidecar.target);
  const onProgress = () => {
    throw new EvalError("no");
  };
  assert.ok((await outcomeOf(client.processBatch(items(3), { onProgress }))).error instanceof EvalError);
});

test("a stream that is refused", async () => {
  await using sidecar = await FakeSidecar.start();
  sidecar.refusals = [
    new Fault("", 0, { code: "NOT_FOUND", reason: "STRATEGY_NOT_FOUND", metadata: { known: "a, b" } }),
  ];
  await using client = new BatchClient(sidecar.target);
  const batch = client.processBatch(items(3), { strategy: "typo" });
  await assert.rejects(batch.waitOpened(), NotFoundError);
  await assert.rejects(batch.next(), { reason: "STRATEGY_NOT_FOUND", metadata: { known: "a, b" }, code: "NOT_FOUND" });
});

test("frames of a kind unknown here say nothing, and an end without totals is a bug", async () => {
  await using sidecar = await FakeSidecar.start();
  sidecar.script = async function* (call: Call) {
    const opening = (await requestsOf(call).next()).value?.open;
    assert.ok(opening);
    yield sidecar.opened(opening);
    yield frame({});
  };
  await using client = new BatchClient(sidecar.target);
  const { error } = await outcomeOf(client.processBatch([]));
  assert.ok(error instanceof UnexpectedError);
  assert.match(error.message, /without `batch_result`/);
});

test("a result that a number cannot hold ends the batch", async () => {
  await using sidecar = await FakeSidecar.start();
  sidecar.script = async function* (call: Call) {
    const opening = (await requestsOf(call).next()).value?.open;
    assert.ok(opening);
    yield sidecar.opened(opening);
    const usage = { inputTokens: 2n ** 60n };
    yield frame({ results: { results: [{ sequence: 1n, usage }, { sequence: 2n }] } });
    await new Promise(() => undefined);
  };
  await using client = new BatchClient(sidecar.target);
  const batch = client.processBatch([]);
  await assert.rejects(batch.next(), UnexpectedError);
  await assert.rejects(batch.next(), UnexpectedError);
  await until(() => sidecar.brokenOff.size === 1);
});

test("many batches share a signal without a warning", async () => {
  await using sidecar = await FakeSidecar.start();
  await using client = new BatchClient(sidecar.target);
  const { signal } = new AbortController();
  const warnings: Error[] = [];
  const onWarning = (warning: Error) => warnings.push(warning);
  process.on("warning", onWarning);
  const batches = numbers(20).map(() => client.processBatch(items(1), { signal }));
  await Promise.all(batches.map(outcomeOf));
  process.off("warning", onWarning);
  assert.deepEqual(warnings, []);
});

test("a deadline, a signal and cancel() end a batch that hangs", async (t) => {
  await using sidecar = await FakeSidecar.start();
  sidecar.script = async function* (call: Call) {
    const opening = (await requestsOf(call).next()).value?.open;
    assert.ok(opening);
    yield sidecar.opened(opening);
    await new Promise(() => undefined);
  };
  await using client = new BatchClient(sidecar.target);
  await client.waitUntilReady();
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const late = client.processBatch(items(1), { timeoutMs: 50 });
  await late.waitOpened();
  t.mock.timers.tick(50);
  assert.ok((await outcomeOf(late)).error instanceof DeadlineExceededError);
  t.mock.timers.reset();

  const abort = new AbortController();
  const aborted = client.processBatch(items(1), { signal: abort.signal });
  await aborted.waitOpened();
  abort.abort(new RangeError("enough"));
  assert.equal(((await outcomeOf(aborted)).error as Error).message, "enough");
  assert.throws(() => client.processBatch([], { signal: abort.signal }), RangeError);

  const cancelled = client.processBatch(items(1));
  await cancelled.waitOpened();
  cancelled.cancel();
  assert.ok((await outcomeOf(cancelled)).error instanceof CallCancelledError);
  await until(() => sidecar.brokenOff.size === 3);
});

test("a call's deadline and signal", async () => {
  await using sidecar = await FakeSidecar.start("127.0.0.1:0");
  sidecar.stop();
  await using client = new BatchClient(sidecar.target);
  await assert.rejects(client.getBatch("b", { signal: AbortSignal.abort() }), { name: "AbortError" });
  await assert.rejects(client.getBatch("b", { timeoutMs: 0 }), DeadlineExceededError);
});

test("bad options", async () => {
  await using client = new BatchClient("127.0.0.1:1");
  const resultOrder = "random" as ResultOrder;
  assert.throws(() => client.processBatch([], { resultOrder }), /"completion" or "submission", not "random"/);
  assert.throws(() => client.processBatch([], { resumeAfterSequence: 3 }), /needs the batchId/);
  assert.throws(() => client.processBatch([], { maxConcurrency: 1.5 }), /whole number, not 1.5/);
  assert.throws(
    () => client.processBatch({ itemId: "1" } as never),
    /items must be an Iterable .*, not {"itemId":"1"}/,
  );
  assert.throws(() => client.processBatch(undefined as never), /items must be an Iterable .*, not undefined/);
  assert.throws(() => new BatchClient("x", { frameItems: 0 }), /frameItems must be at least 1, not 0/);
  assert.throws(() => new BatchClient("x", { resumePolicy: { maxTries: -1 } }), /maxTries must be at least 0/);
});

test("what can be no target", () => {
  assert.throws(() => new BatchClient(""), /^TypeError: the target must not be empty: give host:port or unix:PATH/);
  assert.throws(() => new BatchClient(null as never), /^TypeError: the target must be a string, .*, not null/);
  for (const none of ["unix:", "unix://"]) {
    assert.throws(() => new BatchClient(none), {
      name: "TypeError",
      message: `the target must have a path after "${none}": give host:port or unix:PATH, e.g. 127.0.0.1:50051`,
    });
  }
  for (const [none, port] of [
    ["127.0.0.1:65536", 65536],
    ["dns:///[::1]:99999", 99999],
  ] as const) {
    assert.throws(() => new BatchClient(none), {
      name: "RangeError",
      message: `the target's port must be at most 65535, not ${port} (${none})`,
    });
  }
  for (const target of ["127.0.0.1:65535", "localhost", "unix:/tmp/a:99999"]) {
    new BatchClient(target).close();
  }
});

test("negative timeouts", async () => {
  await using client = new BatchClient("127.0.0.1:1");
  const item = { itemId: "1", prompt: "hi" };
  for (const timeoutMs of [-1, NaN]) {
    const refusal = { name: "RangeError", message: `timeoutMs must be at least 0, not ${timeoutMs}` };
    assert.throws(() => new BatchClient("x", { timeoutMs }), refusal);
    assert.throws(() => client.processBatch([item], { timeoutMs }), refusal);
    await assert.rejects(client.processItem(item, { timeoutMs }), refusal);
    await assert.rejects(client.getBatch("b", { timeoutMs }), refusal);
    await assert.rejects(client.waitUntilReady(timeoutMs), refusal);
  }
});

test("options that there are not", async () => {
  await using client = new BatchClient("127.0.0.1:1");
  const wrong = { timeout: 5 } as object;
  const refusal = { name: "TypeError", message: /^there is no option timeout; there are: .*timeoutMs/ };
  assert.throws(() => new BatchClient("x", wrong), refusal);
  assert.throws(() => client.processBatch([], wrong), refusal);
  await assert.rejects(client.resumeBatch("b", wrong), refusal);
  await assert.rejects(client.processItem({ itemId: "1", prompt: "hi" }, wrong), refusal);
  await assert.rejects(client.getBatch("b", wrong), refusal);
  await assert.rejects(client.listBatches(wrong).next(), refusal);
  await assert.rejects(client.renewCache("s", wrong), refusal);
  assert.throws(() => new BatchClient("x", { resumePolicy: { maxTrys: 1 } as object }), {
    name: "TypeError",
    message: /^there is no option resumePolicy.maxTrys; there are: resumePolicy.maxTries, /,
  });
});

test("text that is no Unicode", async () => {
  await using sidecar = await FakeSidecar.start();
  await using client = new BatchClient(sidecar.target);
  const lone = "ab\ud83d";
  for (const field of ["itemId", "prompt", "strategy"]) {
    const item = { itemId: "1", prompt: "hi", [field]: lone };
    const refusal = {
      name: "TypeError",
      message: `an item's ${field} must be valid Unicode: it has a lone surrogate at 2 (item ${JSON.stringify(item.itemId)})`,
    };
    const error = (await outcomeOf(client.processBatch([item]))).error as Error;
    assert.deepEqual({ name: error.name, message: error.message }, refusal);
    await assert.rejects(client.processItem(item), refusal);
  }
  assert.throws(() => client.processBatch([], { batchId: lone }), /^TypeError: batchId must be valid Unicode/);
  assert.throws(() => client.processBatch([], { strategy: lone }), /^TypeError: strategy must be valid Unicode/);
  const options = { idempotencyKey: lone };
  await assert.rejects(
    client.processItem({ itemId: "1", prompt: "hi" }, options),
    /idempotencyKey must be valid Unicode/,
  );
});

test("nobody listens", async () => {
  await using folder = await Folder.make();
  const target = `unix:${folder.path}/none.sock`;
  await using client = new BatchClient(target);
  await assert.rejects(client.listStrategies(), (error: Error) => {
    return error instanceof SidecarUnavailableError && error.message.includes(`answers at ${target}`);
  });
  await assert.rejects(client.waitUntilReady(50), SidecarUnavailableError);
  assert.ok((await outcomeOf(client.processBatch(items(1)))).error instanceof SidecarUnavailableError);
});

test("closing a client ends who waits for the sidecar", async () => {
  await using folder = await Folder.make();
  const client = new BatchClient(`unix:${folder.path}/none.sock`);
  const timers = () => process.getActiveResourcesInfo().filter((name) => name === "Timeout").length;
  const before = timers();
  const waiting = client.waitUntilReady(60_000);
  await until(() => timers() > before);
  client.close();
  await assert.rejects(waiting, ClientClosedError);
  await until(() => timers() === before);
});

test("a closed client", async () => {
  await using sidecar = await FakeSidecar.start();
  const client = new BatchClient(sidecar.target);
  const batch = client.processBatch(items(3));
  await batch.waitOpened();
  client.close();
  client.close();
  await assert.rejects(async () => {
    for await (const _ of batch);
  }, CallCancelledError);
  assert.throws(() => client.processBatch([]), ClientClosedError);
  await assert.rejects(client.getBatch("b"), ClientClosedError);
  await assert.rejects(client.waitUntilReady(), ClientClosedError);
  assert.ok(!(new ClientClosedError("") instanceof InvalidRequestError));
});
