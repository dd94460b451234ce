/** The client against a real sidecar process with the simulated provider. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { test } from "node:test";

import {
  AlreadyExistsError,
  BatchClient,
  BatchNotFinishedError,
  BatchNotFoundError,
  FailedPreconditionError,
  IdempotencyConflictError,
  InvalidRequestError,
  MessageTooLargeError,
  NotFoundError,
} from "../src/index.js";
import { items, numbers, outcomeOf, sequencesOf } from "./helpers.js";
import { Sidecar } from "./sidecar.js";

const INDEX = new URL("../src/index.js", import.meta.url).href;

/** A prompt that the simulated provider follows. */
function script(said: object): string {
  return JSON.stringify({ simulate: said });
}

for (const listen of ["tcp", "unix"] as const) {
  test(`a batch over ${listen}: successes, failures, context bytes, totals`, async () => {
    await using sidecar = await Sidecar.start(listen);
    await using client = new BatchClient(sidecar.target);
    await client.waitUntilReady();
    const context = Uint8Array.from(numbers(256));
    const work = [
      { itemId: "good", prompt: script({ reply: "größe 🙂" }), context },
      { itemId: "bad", prompt: script({ error: { status: 400, message: "no" } }) },
      { itemId: "", prompt: "x" },
      { itemId: "late", prompt: script({ latency_ms: 60_000 }), timeoutMs: 20 },
    ];
    const batch = client.processBatch(work, { strategy: "echo", resultOrder: "submission", labels: { job: "t" } });
    const { results, error } = await outcomeOf(batch);
    assert.equal(error, undefined);
    const [good, bad, blank, late] = results;
    assert.deepEqual([good?.text, good?.context, good?.submissionIndex], ["größe 🙂", context, 0]);
    assert.deepEqual([bad?.ok, bad?.error?.reason, bad?.error?.retryable], [false, "PROVIDER_REJECTED", false]);
    assert.deepEqual([blank?.error?.reason, blank?.error?.metadata["field"]], ["INVALID_ITEM", "item_id"]);
    assert.equal(late?.error?.reason, "ITEM_DEADLINE_EXCEEDED");
    assert.deepEqual([batch.totals.totalItems, batch.totals.succeeded, batch.totals.failed], [4, 1, 3]);
    assert.equal(batch.totals.failuresByReason["INVALID_ITEM"], 1);
    const info = await client.getBatch(batch.batchId);
    assert.deepEqual([info.state, info.items, info.labels["job"]], ["FINISHED", 4, "t"]);
    assert.ok(info.createTime instanceof Date && info.totals?.failed === 3);
  });
}

test("thousands of items, frames full, in order", async () => {
  await using sidecar = await Sidecar.start();
  await using client = new BatchClient(sidecar.target);
  const outcome = await outcomeOf(client.processBatch(items(3000), { strategy: "echo" }));
  assert.equal(outcome.error, undefined);
  assert.deepEqual(sequencesOf(outcome), numbers(3001, 1));
  assert.equal(new Set(outcome.results.map((result) => result.itemId)).size, 3000);
});

test("a sidecar that is killed and comes again loses nothing", async () => {
  await using sidecar = await Sidecar.start("unix"); // a port might be somebody else's before it is back
  await using client = new BatchClient(sidecar.target, { resumePolicy: { maxTries: 10_000, maxBackoffMs: 200 } });
  const work = numbers(300).map((number) => ({ itemId: `${number}`, prompt: script({ latency_ms: 5 }) }));
  const batch = client.processBatch(work, { strategy: "echo", maxConcurrency: 5 });
  const sequences: number[] = [];
  let next: Sidecar | undefined;
  try {
    for await (const result of batch) {
      sequences.push(result.sequence);
      if (sequences.length === 20) {
        await sidecar.kill();
        next = await Sidecar.start({ again: sidecar });
      }
    }
  } finally {
    await next?.[Symbol.asyncDispose]();
  }
  assert.deepEqual(sequences, numbers(301, 1));
  assert.equal(batch.totals.succeeded, 300);
});

test("leaving the loop early leaves the batch open, for another client to go on", async (t) => {
  await using sidecar = await Sidecar.start();
  await using client = new BatchClient(sidecar.target);
  await client.waitUntilReady();
  async function* endless() {
    for (let number = 0; ; number += 1) {
      await new Promise(setImmediate);
      yield { itemId: `${number}`, prompt: "x" };
    }
  }
  for (const how of ["break", "throw", "abort", "timeout"]) {
    const abort = new AbortController();
    const options = { strategy: "echo", signal: abort.signal, timeoutMs: how === "timeout" ? 100 : undefined };
    if (how === "timeout") {
      t.mock.timers.enable({ apis: ["setTimeout"] }); // else it might run out before the batch has opened
    }
    const batch = client.processBatch(endless(), options);
    try {
      for await (const _ of batch) {
        if (how === "break") {
          break;
        } else if (how === "throw") {
          throw new Error("mine");
        } else if (how === "abort") {
          setImmediate(() => {
            abort.abort();
          });
        } else if (how === "timeout") {
          t.mock.timers.tick(100);
        }
      }
    } catch (error) {
      assert.match(String(error), /mine|AbortError|did not finish within/, how);
    }
    t.mock.timers.reset();
    const { batchId } = batch;
    await new Promise((resolve) => setTimeout(resolve, 50)); // the server would seal it about now
    assert.equal((await client.getBatch(batchId)).state, "OPEN", how);
    await assert.rejects(client.deleteBatch(batchId), BatchNotFinishedError);
  }
});

test("a source that throws leaves the batch open", async () => {
  await using sidecar = await Sidecar.start();
  await using client = new BatchClient(sidecar.target);
  for (const round of numbers(10)) {
    async function* broken() {
      yield* items(1);
      await new Promise((resolve) => setTimeout(resolve, 5));
      throw new Error("row 2");
    }
    const batch = client.processBatch(broken(), { strategy: "echo", batchId: `b${round}` });
    assert.match(String((await outcomeOf(batch)).error), /row 2/);
    await new Promise((resolve) => setTimeout(resolve, 50));
    assert.equal((await client.getBatch(batch.batchId)).state, "OPEN", `round ${round}`);
  }
});

test("a detached batch goes on, and its results come by id", async () => {
  await using sidecar = await Sidecar.start();
  await using client = new BatchClient(sidecar.target);
  const batch = client.processBatch(items(50), { strategy: "echo", detach: true, batchId: "nightly" });
  assert.equal(await batch.leave(), 50);
  const resumed = await client.resumeBatch("nightly"); // perhaps before there is any result
  assert.deepEqual(await outcomeOf(resumed).then(sequencesOf), numbers(51, 1));
  assert.equal(resumed.totals.totalItems, 50);
  const rest = await client.resumeBatch("nightly", { after: 10 });
  assert.deepEqual(await outcomeOf(rest).then(sequencesOf), numbers(51, 11));
  const listed = [];
  for await (const info of client.listBatches({ pageSize: 1 })) {
    listed.push(info.batchId);
  }
  assert.deepEqual(listed, ["nightly"]);
  assert.equal((await client.cancelBatch("nightly")).state, "FINISHED");
  await client.deleteBatch("nightly");
  await assert.rejects(client.getBatch("nightly"), BatchNotFoundError);
});

test("one item, and its idempotency key", async () => {
  await using sidecar = await Sidecar.start();
  await using client = new BatchClient(sidecar.target);
  const item = { itemId: "1", prompt: script({ reply: "ok" }), strategy: "echo" };
  const first = await client.processItem(item, { idempotencyKey: "k" });
  const second = await client.processItem(item, { idempotencyKey: "k" });
  assert.deepEqual([first.text, first.replayed, second.text, second.replayed], ["ok", false, "ok", true]);
  await assert.rejects(
    client.processItem({ ...item, prompt: "other" }, { idempotencyKey: "k" }),
    IdempotencyConflictError,
  );
  const abort = new AbortController();
  const waiting = client.processItem(
    { itemId: "2", prompt: script({ latency_ms: 60_000 }), strategy: "echo" },
    { signal: abort.signal },
  );
  setImmediate(() => {
    abort.abort();
  });
  await assert.rejects(waiting, { name: "AbortError" });
  const large = { itemId: "3", prompt: "x".repeat(17 * 1024 * 1024), strategy: "echo" };
  await assert.rejects(client.processItem(large), MessageTooLargeError);
});

test("strategies", async () => {
  await using sidecar = await Sidecar.start();
  await using client = new BatchClient(sidecar.target);
  const spec = { name: "mine", provider: "simulated", attemptTimeoutSeconds: 1.5, retry: { initialWaitSeconds: 0.25 } };
  const { strategy, registered } = await client.registerStrategy(spec);
  assert.deepEqual([registered, strategy.source, strategy.providerKind], [true, "RPC", "simulated"]);
  assert.deepEqual([strategy.spec.attemptTimeoutSeconds, strategy.spec.retry?.initialWaitSeconds], [1.5, 0.25]);
  assert.equal((await client.registerStrategy(strategy.spec)).registered, false);
  await assert.rejects(client.registerStrategy({ ...spec, model: "other" }), AlreadyExistsError);
  await assert.rejects(client.registerStrategy({ ...spec, name: "!" }), (error: Error) => {
    return error instanceof InvalidRequestError && error.metadata["field"] === "name";
  });
  assert.deepEqual(
    (await client.listStrategies()).map((one) => one.spec.name),
    ["cached", "echo", "mine"],
  );
  await client.unregisterStrategy("mine");
  await assert.rejects(client.getStrategy("mine"), NotFoundError);
  await assert.rejects(client.unregisterStrategy("echo"), FailedPreconditionError);
});

test("caches", async () => {
  await using sidecar = await Sidecar.start();
  await using client = new BatchClient(sidecar.target);
  const { cache, reused } = await client.createOrReuseCache("cached", { ttlSeconds: 600 });
  assert.deepEqual([reused, cache.state, cache.strategy], [false, "ACTIVE", "cached"]);
  assert.ok(cache.expireTime instanceof Date && cache.totalTokenCount > 0);
  assert.equal((await client.createOrReuseCache("cached")).reused, true);
  assert.equal((await client.renewCache("cached", { ttlSeconds: 900 })).recreated, false);
  assert.equal((await client.getCache("cached")).fingerprint, cache.fingerprint);
  assert.equal((await client.listCaches()).length, 1);
  assert.equal(await client.deleteCache("cached"), true);
  assert.equal(await client.deleteCache("cached"), false);
  await assert.rejects(client.getCache("cached"), NotFoundError);
});

test("the README's lines run", async () => {
  await using sidecar = await Sidecar.start();
  const readme = await readFile(new URL("../../README.md", import.meta.url), "utf8");
  const [, lines = ""] = /```ts\n([^]*?)```/.exec(readme) ?? [];
  const program = lines
    .replace('"batch-llm-client"', JSON.stringify(INDEX))
    .replace("127.0.0.1:50051", sidecar.target)
    .replaceAll('"echo"', '"readme"');
  const { code, said } = await run(program);
  assert.equal(code, 0);
  assert.match(said, /^0 simulated: Hello 0$/m);
  assert.match(said, /totalItems: 100/);
});

test("a process that left a loop early ends by itself", async () => {
  await using sidecar = await Sidecar.start();
  const program = `
    import { BatchClient } from ${JSON.stringify(INDEX)};
    const client = new BatchClient(${JSON.stringify(sidecar.target)});
    async function* source() { yield { itemId: "1", prompt: "x" }; await new Promise(() => {}); }
    for await (const result of client.processBatch(source(), { strategy: "echo", timeoutMs: 600_000 })) break;
    console.log("left");
  `;
  const { code, said } = await run(program);
  assert.deepEqual([code, said], [0, "left\n"]);
});

/** Runs a program in a process of its own. */
async function run(program: string): Promise<{ code: number | null; said: string }> {
  const options = ["--input-type=module", "--eval", program];
  const child = spawn(process.execPath, options, { stdio: ["ignore", "pipe", "inherit"] });
  let said = "";
  child.stdout.on("data", (chunk: Buffer) => (said += chunk.toString()));
  const timer = setTimeout(() => child.kill("SIGKILL"), 60_000);
  const [code] = (await once(child, "close")) as [number | null];
  clearTimeout(timer);
  return { code, said };
}
