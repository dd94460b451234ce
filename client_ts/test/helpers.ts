import type { Batch, Clock, Result, WorkItem } from "../src/index.js";

/** Items that are named by number. */
export function items(count: number, start = 0): WorkItem[] {
  return numbers(count, start).map((number) => ({ itemId: `${number}`, prompt: `prompt ${number}` }));
}

export function numbers(count: number, start = 0): number[] {
  return Array.from({ length: count - start }, (_, index) => start + index);
}

/** A clock whose waits take no time: they are noted, and are the moment for what happens meanwhile. */
export class FakeClock implements Clock {
  readonly waits: number[] = [];
  #now = 0;

  constructor(readonly meanwhile: (number: number) => unknown = () => undefined) {}

  now(): number {
    return this.#now;
  }

  random(): number {
    return 1;
  }

  async sleep(milliseconds: number): Promise<void> {
    this.waits.push(milliseconds);
    this.#now += milliseconds;
    await this.meanwhile(this.waits.length);
  }
}

/** What came of a batch. */
export interface Outcome {
  results: Result[];
  error: unknown;
}

/** Runs a batch to its end; the error that ended it is kept. */
export async function outcomeOf(batch: Batch): Promise<Outcome> {
  const results: Result[] = [];
  try {
    for await (const result of batch) {
      results.push(result);
    }
  } catch (error) {
    return { results, error };
  }
  return { results, error: undefined };
}

export function sequencesOf({ results }: Outcome): number[] {
  return results.map((result) => result.sequence);
}

/** A gate that something waits at. */
export class Gate {
  open!: () => void;
  readonly passed = new Promise<void>((resolve) => {
    this.open = resolve;
  });
}

/** Polls until it is so. */
export async function until(condition: () => boolean): Promise<void> {
  for (let polls = 0; !condition(); polls += 1) {
    if (polls > 3000) {
      throw new Error(`never came: ${condition.toString()}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
