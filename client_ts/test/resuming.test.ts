/** The client against a sidecar that breaks off, restarts, loses its journal: results without a gap or a repeat. */
import assert from "node:assert/strict";
import { test } from "node:test";

import {
  BatchClient,
  BatchInUseError,
  BatchLostError,
  BatchNotFoundError,
  CallCancelledError,
  DeadlineExceededError,
  InvalidRequestError,
  JournalFullError,
  JournalUnavailableError,
  ServerDrainingError,
  SidecarUnavailableError,
  UnexpectedError,
  type Batch,
  type BatchOptions,
  type ClientOptions,
  type StatusCode,
  type WorkItem,
} from "../src/index.js";
import { BatchState, OpenBatch } from "../src/gen/batchllm/v1/batch_service.js";
import { FakeSidecar, Fault, frame, requestsOf, type Call, type Frame, type Log } from "./fake.js";
import { FakeClock, Gate, items, numbers, outcomeOf, sequencesOf, type Outcome } from "./helpers.js";

const POLICY = { maxTries: 5, initialBackoffMs: 1000, maxBackoffMs: 4000 };

interface Run extends Outcome {
  batch: Batch;
}

async function run(
  sidecar: FakeSidecar,
  work: Iterable<WorkItem> | AsyncIterable<WorkItem>,
  clock = new FakeClock(),
  options: BatchOptions = {},
  settings: ClientOptions = {},
): Promise<Run> {
  await using client = new BatchClient(sidecar.target, { resumePolicy: POLICY, clock, ...settings });
  const batch = client.processBatch(work, options);
  return { batch, ...(await outcomeOf(batch)) };
}

/** Each result once, in order, and the right one. */
function assertWhole(outcome: Run, count: number): void {
  assert.equal(outcome.error, undefined);
  assert.deepEqual(sequencesOf(outcome), numbers(count + 1, 1));
  assert.deepEqual(
    outcome.results.map((result) => result.text),
    items(count).map((item) => item.prompt),
  );
  assert.equal(outcome.batch.totals.totalItems, count);
}

async function* slowly(work: WorkItem[]): AsyncGenerator<WorkItem> {
  for (const item of work) {
    await new Promise(setImmediate);
    yield item;
  }
}

for (const source of ["list", "async"]) {
  for (const moment of ["items", "accepted", "result", "totals"]) {
    test(`a stream that breaks at ${moment} is resumed, ${source}`, async () => {
      await using sidecar = await FakeSidecar.start();
      sidecar.faults = [new Fault(moment), new Fault(moment, 70), new Fault(moment, 100)];
      const work = items(130);
      assertWhole(await run(sidecar, source === "list" ? work : slowly(work)), 130);
      const [log] = sidecar.journal.values();
      assert.equal(log?.results.length, 130);
      assert.ok(log.sealed);
    });
  }
}

test("only what was not confirmed is sent again", async () => {
  await using sidecar = await FakeSidecar.start();
  sidecar.faults = [new Fault("accepted", 20), new Fault("items", 40)];
  assertWhole(await run(sidecar, items(60), new FakeClock(), {}, { frameItems: 10 }), 60);
  const names = (count: number, start: number) => numbers(count, start).map(String);
  assert.deepEqual(sidecar.received, [names(20, 0), names(50, 20), names(60, 40)]);
});

test("it opens as before, after the last result handed out", async () => {
  await using sidecar = await FakeSidecar.start();
  sidecar.faults = [new Fault("result", 7)];
  const said = {
    strategy: "s",
    maxConcurrency: 3,
    labels: { a: "b" },
    detach: true,
    resultOrder: "submission",
  } as const;
  const outcome = await run(sidecar, items(20), new FakeClock(), said);
  assertWhole(outcome, 20);
  const [first, second] = sidecar.opens;
  assert.match(outcome.batch.batchId, /^batch-[0-9a-f]{32}$/);
  assert.equal(first?.batchId, outcome.batch.batchId);
  assert.deepEqual([first.resumeAfterSequence, second?.resumeAfterSequence], [0n, 7n]);
  assert.deepEqual({ ...second, resumeAfterSequence: 0n }, first);
  assert.deepEqual([first.strategy, first.detach, first.labels["a"]], ["s", true, "b"]);
});

test("a sidecar that restarts", async () => {
  await using sidecar = await FakeSidecar.start();
  const gone = new Gate();
  sidecar.script = async function* (call: Call) {
    let count = 0;
    for await (const answer of sidecar.echo(call)) {
      yield answer;
      if (++count === 20) {
        sidecar.script = undefined;
        sidecar.stop();
        gone.open();
        await new Promise(() => undefined);
      }
    }
  };
  const clock = new FakeClock((number) => (number === 1 ? sidecar.start() : undefined));
  assertWhole(await run(sidecar, items(50), clock), 50);
  await gone.passed;
});

test("tries count anew after progress", async () => {
  await using sidecar = await FakeSidecar.start();
  sidecar.faults = numbers(30, 1).map((count) => new Fault("result", count));
  const clock = new FakeClock();
  assertWhole(await run(sidecar, items(40), clock), 40);
  assert.deepEqual(clock.waits, Array<number>(29).fill(1000));
});

test("tries are bounded, and waits double", async () => {
  await using sidecar = await FakeSidecar.start();
  sidecar.faults = [new Fault("result", 3)];
  const clock = new FakeClock(() => sidecar.refusals.push(new Fault()));
  const outcome = await run(sidecar, items(10), clock);
  assert.ok(outcome.error instanceof SidecarUnavailableError);
  assert.deepEqual(clock.waits, [1000, 2000, 4000, 4000, 4000]);
  assert.deepEqual(sequencesOf(outcome), [1, 2, 3]);
  assert.equal(outcome.batch.lastSequence, 3);
});

test("the delay that the server asks for", async () => {
  await using sidecar = await FakeSidecar.start();
  const draining = new Fault("result", 3, { reason: "SERVER_DRAINING", retryAfterMs: 5000 });
  sidecar.faults = [draining];
  const clock = new FakeClock((number) => number < 3 && sidecar.refusals.push(draining));
  assertWhole(await run(sidecar, items(10), clock, {}, { resumePolicy: { maxTries: 0 } }), 10);
  assert.deepEqual(clock.waits, [5200, 5200, 5200]);
});

const RIDDEN_OUT: [StatusCode, string | undefined][] = [
  ["INTERNAL", undefined],
  ["UNKNOWN", undefined],
  ["CANCELLED", undefined],
  ["UNAVAILABLE", "JOURNAL_UNAVAILABLE"],
  ["RESOURCE_EXHAUSTED", "JOURNAL_FULL"],
  ["ABORTED", "BATCH_IN_USE"],
];
for (const [code, reason] of RIDDEN_OUT) {
  test(`ridden out: ${code} ${reason ?? ""}`, async () => {
    await using sidecar = await FakeSidecar.start();
    sidecar.faults = [new Fault("result", 3, reason === undefined ? { code } : { code, reason })];
    assertWhole(await run(sidecar, items(10)), 10);
  });
}

const NOT_RIDDEN_OUT: [StatusCode, string | undefined, typeof UnexpectedError][] = [
  ["INTERNAL", "INTERNAL", UnexpectedError],
  ["INVALID_ARGUMENT", "FRAME_EMPTY", InvalidRequestError],
  ["RESOURCE_EXHAUSTED", undefined, Object.getPrototypeOf(JournalFullError) as typeof UnexpectedError],
];
for (const [code, reason, expected] of NOT_RIDDEN_OUT) {
  test(`not ridden out: ${code} ${reason ?? ""}`, async () => {
    await using sidecar = await FakeSidecar.start();
    sidecar.faults = [new Fault("result", 3, reason === undefined ? { code } : { code, reason })];
    const clock = new FakeClock();
    const outcome = await run(sidecar, items(10), clock);
    assert.ok(outcome.error instanceof expected);
    assert.deepEqual([outcome.error.code, clock.waits, sequencesOf(outcome)], [code, [], [1, 2, 3]]);
  });
}

const REFUSALS: [Fault, new (message: string) => Error][] = [
  [new Fault("", 0, { code: "ABORTED", reason: "BATCH_IN_USE" }), BatchInUseError],
  [new Fault("", 0, { reason: "SERVER_DRAINING", retryAfterMs: 2000 }), ServerDrainingError],
  [new Fault("", 0, { reason: "JOURNAL_UNAVAILABLE" }), JournalUnavailableError],
  [new Fault("", 0, { code: "RESOURCE_EXHAUSTED", reason: "JOURNAL_FULL" }), JournalFullError],
];
for (const [refusal, expected] of REFUSALS) {
  test(`a batch that never opened is not tried again: ${expected.name}`, async () => {
    await using sidecar = await FakeSidecar.start();
    sidecar.refusals = [refusal];
    const clock = new FakeClock();
    const outcome = await run(sidecar, items(10), clock);
    assert.equal((outcome.error as Error).constructor, expected);
    assert.deepEqual(clock.waits, []);
  });
}

test("resume can be switched off, and the error comes again", async () => {
  await using sidecar = await FakeSidecar.start();
  sidecar.faults = [new Fault("result", 3)];
  const outcome = await run(sidecar, items(10), new FakeClock(), { resume: false });
  assert.ok(outcome.error instanceof SidecarUnavailableError);
  assert.deepEqual(sequencesOf(outcome), [1, 2, 3]);
  await assert.rejects(outcome.batch.next(), SidecarUnavailableError);
  assert.throws(() => outcome.batch.totals, /iterate over all/);
  assert.equal(sidecar.opens.length, 1);
});

test("the deadline bounds it all", async () => {
  await using sidecar = await FakeSidecar.start();
  sidecar.faults = [new Fault("result", 3)];
  const clock = new FakeClock(() => sidecar.refusals.push(new Fault()));
  const outcome = await run(sidecar, items(10), clock, { timeoutMs: 6000 });
  assert.ok(outcome.error instanceof DeadlineExceededError);
  assert.deepEqual(clock.waits, [1000, 2000]);
});

for (const durable of [false, true]) {
  for (const moment of ["accepted", "result"]) {
    test(`a journal that is gone, after ${moment}, durable ${durable ? "yes" : "no"}`, async () => {
      await using sidecar = await FakeSidecar.start();
      sidecar.durable = durable;
      sidecar.faults = [new Fault(moment, 5)];
      const clock = new FakeClock(() => {
        sidecar.journal.clear();
      });
      const outcome = await run(sidecar, items(10), clock, { batchId: "b" });
      const { error } = outcome;
      assert.ok(error instanceof BatchLostError);
      assert.deepEqual([error.batchId, error.held, error.durable, error.code], ["b", 10, durable, "DATA_LOSS"]);
      assert.equal(error.lastSequence, moment === "result" ? 5 : 0);
      assert.equal(outcome.results.length, error.lastSequence);
      assert.equal(clock.waits.length, 1);
    });
  }
}

test("a journal that has the items and not the results", async () => {
  await using sidecar = await FakeSidecar.start();
  sidecar.faults = [new Fault("result", 5)];
  const clock = new FakeClock(() => {
    const opening = sidecar.opens[0] ?? OpenBatch.create();
    sidecar.script = async function* (call: Call) {
      await requestsOf(call).next();
      yield sidecar.opened(opening, { ...logOf(sidecar), results: [] });
      await new Promise(() => undefined);
    };
  });
  const { error } = await run(sidecar, items(10), clock);
  assert.ok(error instanceof BatchLostError);
  assert.deepEqual([error.held, error.lastSequence], [10, 5]);
});

function logOf(sidecar: FakeSidecar): Log {
  const [log] = sidecar.journal.values();
  assert.ok(log);
  return log;
}

test("a result that is left out is noticed", async () => {
  await using sidecar = await FakeSidecar.start();
  sidecar.script = (call) => withResults(sidecar, call, (answer, sequence) => (sequence === 4n ? [] : [answer]));
  const outcome = await run(sidecar, items(10));
  assert.ok(outcome.error instanceof UnexpectedError);
  assert.match(outcome.error.message, /result 5 follows 3/);
  assert.deepEqual(sequencesOf(outcome), [1, 2, 3]);
});

test("results that are left out at the end are noticed", async () => {
  await using sidecar = await FakeSidecar.start();
  sidecar.script = (call) => withResults(sidecar, call, (answer, sequence) => (sequence > 8n ? [] : [answer]));
  const outcome = await run(sidecar, items(10));
  assert.ok(outcome.error instanceof UnexpectedError);
  assert.match(outcome.error.message, /the batch has 10, the last one is 8/);
  assert.equal(outcome.results.length, 8);
});

test("what comes twice is handed out once", async () => {
  await using sidecar = await FakeSidecar.start();
  sidecar.script = (call) => withResults(sidecar, call, (answer) => [answer, answer]);
  assertWhole(await run(sidecar, items(10)), 10);
});

async function* withResults(
  sidecar: FakeSidecar,
  call: Call,
  change: (answer: Frame, sequence: bigint) => Frame[],
): AsyncGenerator<Frame> {
  for await (const answer of sidecar.echo(call)) {
    const [result] = answer.results?.results ?? [];
    yield* result === undefined ? [answer] : change(answer, result.sequence);
  }
}

test("another client resumes, by id and sequence", async () => {
  await using sidecar = await FakeSidecar.start();
  sidecar.faults = [new Fault("result", 4)];
  const first = await run(sidecar, items(10), new FakeClock(), { batchId: "b", resume: false });
  assert.deepEqual(sequencesOf(first), [1, 2, 3, 4]);
  const resumeAfterSequence = first.batch.lastSequence;
  const second = await run(sidecar, items(12), new FakeClock(), { batchId: "b", resumeAfterSequence });
  assert.equal(second.error, undefined);
  assert.deepEqual(sequencesOf(second), numbers(13, 5));
  const third = await run(sidecar, items(12), new FakeClock(), { batchId: "b" });
  assertWhole(third, 12);
  assert.ok(third.results.every((result) => result.replayed));
  assert.equal(sidecar.journal.get("b")?.items.size, 12);
});

test("what the source throws while the stream is away", async () => {
  await using sidecar = await FakeSidecar.start();
  sidecar.faults = [new Fault("result", 1)];
  const away = new Gate();
  async function* source() {
    yield* items(1);
    await away.passed;
    throw new Error("row 1");
  }
  const clock = new FakeClock(async () => {
    away.open();
    await new Promise(setImmediate);
  });
  const outcome = await run(sidecar, source(), clock);
  assert.match(String(outcome.error), /row 1/);
  assert.equal(sidecar.opens.length, 1);
});

test("cancelling, and closing the client, while the stream is away", async () => {
  for (const how of ["cancel", "close"]) {
    await using sidecar = await FakeSidecar.start();
    sidecar.faults = [new Fault("result", 1)];
    const clock = new FakeClock(() => {
      if (how === "cancel") {
        batch.cancel();
      } else {
        client.close();
      }
    });
    await using client = new BatchClient(sidecar.target, { clock });
    const batch = client.processBatch(items(3));
    const outcome = await outcomeOf(batch);
    assert.ok(outcome.error instanceof CallCancelledError);
    assert.equal(sidecar.opens.length, 1);
  }
});

test("a wait really ends when the signal is aborted", async () => {
  await using sidecar = await FakeSidecar.start();
  sidecar.faults = [new Fault("result", 1, { reason: "SERVER_DRAINING", retryAfterMs: 100_000 })];
  const abort = new AbortController();
  await using client = new BatchClient(sidecar.target);
  const batch = client.processBatch(items(3), { signal: abort.signal });
  assert.equal((await batch.next()).value?.sequence, 1);
  setImmediate(() => {
    abort.abort();
  });
  await assert.rejects(batch.next(), { name: "AbortError" });
});

test("a source that waits goes on after a break", async () => {
  await using sidecar = await FakeSidecar.start();
  sidecar.faults = [new Fault("result", 3)];
  const resumed = new Gate();
  async function* source() {
    yield* items(5);
    await resumed.passed;
    yield* items(8, 5);
  }
  await using client = new BatchClient(sidecar.target, { clock: new FakeClock() });
  const batch = client.processBatch(source());
  const results = [];
  for await (const result of batch) {
    results.push(result);
    if (sidecar.opens.length === 2) {
      resumed.open();
    }
  }
  assertWhole({ batch, results, error: undefined }, 8);
});

for (const limits of [{ unconfirmedItems: 20 }, { unconfirmedBytes: 2000 }]) {
  test(`the source is not read beyond what is kept: ${Object.keys(limits).join()}`, async () => {
    await using sidecar = await FakeSidecar.start();
    let taken = 0;
    let most = 0;
    function* source() {
      for (const number of numbers(200)) {
        taken += 1;
        yield { itemId: `${number}`, prompt: "x".repeat(80) };
      }
    }
    sidecar.script = async function* (call: Call) {
      const requests = requestsOf(call);
      yield sidecar.opened((await requests.next()).value?.open ?? OpenBatch.create());
      let received = 0;
      let waiting = 0;
      while (received < 200) {
        waiting += (await requests.next()).value?.items?.items.length ?? 0;
        if (received + waiting === 200 || waiting >= 20) {
          most = Math.max(most, taken - received); // so far and no further until it is confirmed
          received += waiting;
          waiting = 0;
          yield frame({ accepted: { items: BigInt(received), received: BigInt(received) } });
        }
      }
      throw new Fault("", 0, { code: "NOT_FOUND" });
    };
    const outcome = await run(sidecar, source(), new FakeClock(), {}, { frameItems: 5, ...limits });
    assert.equal((outcome.error as { code?: string }).code, "NOT_FOUND");
    assert.equal(taken, 200);
    assert.ok(most <= 22, `${most}: the bound, and one more in the reader's hand`);
  });
}

test("leaving a detached batch", async () => {
  await using sidecar = await FakeSidecar.start();
  sidecar.faults = [new Fault("accepted", 20), new Fault("result", 1), new Fault("result", 2)];
  const limits = { frameItems: 10, unconfirmedItems: 10 };
  await using client = new BatchClient(sidecar.target, { clock: new FakeClock(), resumePolicy: POLICY, ...limits });
  const batch = client.processBatch(items(100), { batchId: "b", detach: true });
  assert.equal(await batch.leave(), 100);
  assert.ok(sidecar.journal.get("b")?.opening.detach);
  const again = await outcomeOf(await client.resumeBatch("b"));
  assert.deepEqual(sequencesOf(again), numbers(101, 1));
  assert.ok(sidecar.opens.at(-1)?.detach);
  assert.deepEqual(sequencesOf(await outcomeOf(await client.resumeBatch("b", { after: 98 }))), [99, 100]);
  await assert.rejects(client.resumeBatch("typo"), BatchNotFoundError);
  assert.ok(!sidecar.journal.has("typo"));
  await assert.rejects(client.processBatch(items(1)).leave(), /detach: true/);
});

/** The client goes before the end. */
async function* withoutTotals(sidecar: FakeSidecar, call: Call): AsyncGenerator<Frame> {
  for await (const answer of sidecar.echo(call)) {
    if (answer.batchResult !== undefined) {
      await new Promise(() => undefined);
    }
    yield answer;
  }
}

test("leaving waits until the server knows that there is no more", async () => {
  await using sidecar = await FakeSidecar.start();
  sidecar.states.push(BatchState.OPEN, new Fault());
  sidecar.script = (call) => withoutTotals(sidecar, call);
  const clock = new FakeClock();
  await using client = new BatchClient(sidecar.target, { clock });
  assert.equal(await client.processBatch(items(3), { batchId: "b", detach: true }).leave(), 3);
  assert.deepEqual(sidecar.states, []);
  assert.ok(clock.waits.length >= 2);
  assert.ok(sidecar.journal.get("b")?.sealed);
});

test("leaving a batch whose source ends when all else has been said", async () => {
  await using sidecar = await FakeSidecar.start();
  sidecar.script = (call) => withoutTotals(sidecar, call);
  async function* source() {
    yield* items(3);
    await new Promise((resolve) => setTimeout(resolve, 50)); // until all is confirmed
  }
  await using client = new BatchClient(sidecar.target);
  assert.equal(await client.processBatch(source(), { detach: true }).leave(), 3);
});

test("leaving a batch that was deleted says so", async () => {
  await using sidecar = await FakeSidecar.start();
  sidecar.script = async function* (call: Call) {
    for await (const answer of sidecar.echo(call)) {
      yield answer;
      if (answer.accepted !== undefined) {
        sidecar.journal.clear();
        await new Promise(() => undefined);
      }
    }
  };
  await using client = new BatchClient(sidecar.target, { clock: new FakeClock() });
  await assert.rejects(client.processBatch(items(3), { batchId: "b", detach: true }).leave(), BatchNotFoundError);
});

test("a call with a key is made again", async () => {
  await using sidecar = await FakeSidecar.start();
  const clock = new FakeClock();
  await using client = new BatchClient(sidecar.target, { clock, resumePolicy: POLICY });
  const item = { itemId: "1", prompt: "hi" };
  sidecar.refusals = [new Fault(), new Fault("", 0, { code: "INTERNAL" })];
  assert.equal((await client.processItem(item, { idempotencyKey: "k" })).text, "hi");
  assert.deepEqual(
    sidecar.requests.map((request) => request.idempotencyKey),
    ["k", "k", "k"],
  );
  assert.deepEqual(clock.waits, [1000, 2000]);
  sidecar.refusals = numbers(9).map(() => new Fault());
  await assert.rejects(client.processItem(item, { idempotencyKey: "k" }), SidecarUnavailableError);
  assert.equal(sidecar.refusals.length, 9 - 6);
  await assert.rejects(client.processItem(item, { idempotencyKey: "k", timeoutMs: 900 }), DeadlineExceededError);
});

test("a call without a key is made once", async () => {
  await using sidecar = await FakeSidecar.start();
  sidecar.refusals = [new Fault()];
  await using client = new BatchClient(sidecar.target);
  await assert.rejects(client.processItem({ itemId: "1", prompt: "hi" }), SidecarUnavailableError);
  assert.equal(sidecar.requests.length, 1);
});
