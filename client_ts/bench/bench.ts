/** Items a second through a running sidecar: `node build/bench/bench.js TARGET [ITEMS]`. */
import { BatchClient } from "../src/index.js";

const [target = "127.0.0.1:50051", count = "50000"] = process.argv.slice(2);
const total = Number(count);
await using client = new BatchClient(target);
await client.registerStrategy({ name: "bench", provider: "simulated", maxConcurrency: 1000 });

function* items() {
  for (let number = 0; number < total; number += 1) {
    yield { itemId: `item-${number}`, prompt: `Say ${number}` };
  }
}

for (let round = 1; round <= 3; round += 1) {
  const began = performance.now();
  const cpu = process.cpuUsage();
  let seen = 0;
  for await (const result of client.processBatch(items(), { strategy: "bench" })) {
    seen += result.ok ? 1 : 0;
  }
  const seconds = (performance.now() - began) / 1000;
  const { user, system } = process.cpuUsage(cpu);
  const own = (user + system) / 1e6;
  console.log(`${seen} of ${total} items: ${Math.round(total / seconds)} items/s, ${own.toFixed(2)} s of CPU here`);
}
