/** Labels the tickets of examples/triage through a running sidecar: `npm start -- TARGET`. */
import { readFile } from "node:fs/promises";

import { BatchClient, BatchLLMClientError, type WorkItem } from "batch-llm-client";

interface Ticket {
  id: string;
  text: string;
  label: string;
}

const file = new URL("../../triage/tickets.jsonl", import.meta.url);
const lines = (await readFile(file, "utf8")).split("\n").filter((line) => line !== "");
const tickets = lines.map((line) => JSON.parse(line) as Ticket);
const labels = new Map(tickets.map(({ id, label }) => [id, label]));

function* items(): Generator<WorkItem> {
  for (const { id, text } of tickets) {
    yield { itemId: id, prompt: `Ticket: ${text}\nLabel:` };
  }
}

const client = new BatchClient(process.argv[2]);
const interrupt = new AbortController();
process.once("SIGINT", () => {
  interrupt.abort();
});
try {
  await client.waitUntilReady();
  let right = 0;
  const batch = client.processBatch(items(), { strategy: "triage", signal: interrupt.signal });
  for await (const result of batch) {
    const said = result.ok ? result.text.trim() : `${result.error.reason}: ${result.error.message}`;
    right += said === labels.get(result.itemId) ? 1 : 0;
    console.log(`${result.itemId}  ${said}`);
  }
  const { totalItems, failed, cacheHitRate, elapsedMs } = batch.totals;
  console.log(`${totalItems} tickets in ${(elapsedMs / 1000).toFixed(1)} s, ${right} as expected, ${failed} failed,`);
  console.log(`${cacheHitRate.toFixed(1)} % of the input from the cache`);
  process.exitCode = failed > 0 ? 1 : 0;
} catch (error) {
  if (!(error instanceof BatchLLMClientError || interrupt.signal.aborted)) {
    throw error;
  }
  console.error(String(error));
  process.exitCode = interrupt.signal.aborted ? 130 : 2;
} finally {
  client.close();
}
