/**
 * Items a second through a running sidecar: `node build/bench/bench.js [TARGET] [ITEMS]`.
 *
 * As the benches of all clients: one batch warms up, the next one counts; both are erased from the sidecar's journal.
 * Prints {"items": …, "items_per_second": …}.
 */
import { BatchClient } from "../src/index.js";

const [target = "127.0.0.1:50051", count = "50000"] = process.argv.slice(2);
const total = Number(count);
const strategy = "bench";
const prompt = `a prompt of the length of a support ticket, more or less, so that frames have some weight: ${"x".repeat(60)}`;
const items = Array.from({ length: total }, (_, number) => ({ itemId: `${number}`, prompt }));

await using client = new BatchClient(target);
await client.registerStrategy({ name: strategy, provider: "simulated" });
let seconds = 0;
for (const _ of ["warm-up", "measured"]) {
  const began = performance.now();
  const batch = client.processBatch(items, { strategy });
  let seen = 0;
  for await (const _ of batch) {
    seen += 1;
  }
  seconds = (performance.now() - began) / 1000;
  const { succeeded } = batch.totals;
  if (seen !== total || succeeded !== total) {
    throw new Error(`${seen} results, ${succeeded} succeeded, of ${total} items`);
  }
  await client.deleteBatch(batch.batchId);
}
console.log(`{"items": ${total}, "items_per_second": ${Math.round(total / seconds)}}`);
