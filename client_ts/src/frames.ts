/** What is sent: items as bytes, frames of them, and the first frame. */
import { randomUUID } from "node:crypto";

import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";

import { toDuration } from "./durations.js";
import { MessageTooLargeError } from "./errors.js";
import { OpenBatch, ProcessBatchRequest, ResultOrder as Order } from "./gen/batchllm/v1/batch_service.js";
import * as work from "./gen/batchllm/v1/work.js";
import type { ResultOrder, WorkItem } from "./model.js";

// A message inside another costs one byte of tag and at most five of length.
const NESTING_BYTES = 6;

/** What a frame costs beside its items: they lie in WorkItems, which lies in the request. */
export const FRAME_BYTES = NESTING_BYTES;

const ITEMS_OF_REQUEST = (2 << 3) | WireType.LengthDelimited;
const ITEM_OF_ITEMS = (1 << 3) | WireType.LengthDelimited;
const NO_CONTEXT = new Uint8Array();

/** What a frame may hold, what a message may weigh in bytes, and how much may be unconfirmed. */
export interface Limits {
  readonly frameItems: number;
  readonly frameBytes: number;
  readonly maxMessageBytes: number;
  readonly unconfirmedItems: number;
  readonly unconfirmedBytes: number;
}

/** RangeError: a limit is not at least 1. */
export function checkLimits(limits: Limits): Limits {
  for (const [name, value] of Object.entries(limits) as [string, number][]) {
    if (!(value >= 1)) {
      throw new RangeError(`${name} must be at least 1, not ${value}`);
    }
  }
  return within(limits, limits.maxMessageBytes);
}

/** Clamps to what the server takes; 0: it did not say. */
export function within(limits: Limits, serverBytes: number): Limits {
  const largest = Math.min(limits.maxMessageBytes, serverBytes || limits.maxMessageBytes);
  return { ...limits, maxMessageBytes: largest, frameBytes: Math.min(limits.frameBytes, largest) };
}

/** An item's message, as bytes, and what it costs in a frame. */
export interface EncodedItem {
  readonly message: Uint8Array;
  readonly cost: number;
}

/**
 * Encodes an item.
 *
 * @throws MessageTooLargeError: a frame of this item alone would exceed `limit` bytes.
 * @throws TypeError: it is no WorkItem, or a field has the wrong type.
 */
export function encode(item: WorkItem, limit: number): EncodedItem {
  const message = work.WorkItem.encode(toMessage(item)).finish();
  const cost = message.length + NESTING_BYTES;
  if (cost + FRAME_BYTES > limit) {
    throw new MessageTooLargeError(item.itemId, cost + FRAME_BYTES, limit);
  }
  return { message, cost };
}

/** The protobuf message of an item. TypeError or RangeError: a field is of the wrong type, or cannot be held. */
export function toMessage(item: WorkItem): work.WorkItem {
  if (typeof item !== "object" || (item as unknown) === null) {
    throw new TypeError(`an item must be an object with itemId and prompt, not ${JSON.stringify(item)}`);
  }
  const { itemId, prompt, strategy = "", context = NO_CONTEXT, timeoutMs } = item;
  for (const [name, value] of Object.entries({ itemId, prompt, strategy }) as [string, unknown][]) {
    if (typeof value !== "string") {
      throw new TypeError(`an item's ${name} must be a string, not ${typeof value} (item ${JSON.stringify(itemId)})`);
    }
    if (!value.isWellFormed()) {
      throw new TypeError(`an item's ${name} ${surrogateIn(value)} (item ${JSON.stringify(itemId)})`);
    }
  }
  if (!((context as unknown) instanceof Uint8Array)) {
    throw new TypeError(
      `an item's context must be a Uint8Array, not ${typeof context} (item ${JSON.stringify(itemId)})`,
    );
  }
  const timeout = timeoutMs === undefined ? undefined : toDuration(timeoutMs, "an item's timeoutMs");
  return { itemId, prompt, strategy, context, timeout };
}

/** What is wrong with a string that is not well-formed: protobuf would send another character instead. */
function surrogateIn(text: string): string {
  return `must be valid Unicode: it has a lone surrogate at ${text.search(/\p{Surrogate}/u)}`;
}

/** TypeError: an option's string is not well-formed. */
export function checkText(name: string, text: string): string {
  if (!text.isWellFormed()) {
    throw new TypeError(`${name} ${surrogateIn(text)}`);
  }
  return text;
}

/** A frame of items that are encoded already. */
export function itemsFrame(items: readonly EncodedItem[]): Uint8Array {
  const writer = new BinaryWriter().uint32(ITEMS_OF_REQUEST).fork();
  for (const { message } of items) {
    writer.uint32(ITEM_OF_ITEMS).bytes(message);
  }
  return writer.join().finish();
}

/** What the first frame says, in the words of the client's users. */
export interface Opening {
  readonly batchId?: string | undefined;
  readonly strategy?: string | undefined;
  readonly maxConcurrency?: number | undefined;
  readonly resultOrder?: ResultOrder | undefined;
  readonly labels?: Readonly<Record<string, string>> | undefined;
  readonly resumeAfterSequence?: number | undefined;
  readonly detach?: boolean | undefined;
}

/**
 * What the first frame says, with an id of our own where none is given: without one it cannot be resumed.
 *
 * @throws TypeError or RangeError: no such result order, no whole number, or a batch without id is to be resumed.
 */
export function openBatch(opening: Opening): OpenBatch {
  const { resumeAfterSequence = 0, maxConcurrency = 0, resultOrder } = opening;
  for (const [name, value] of Object.entries({ resumeAfterSequence, maxConcurrency })) {
    if (!Number.isSafeInteger(value)) {
      throw new RangeError(`${name} must be a whole number, not ${value}`);
    }
  }
  if (resumeAfterSequence !== 0 && !opening.batchId) {
    throw new TypeError("resumeAfterSequence needs the batchId of the batch to resume");
  }
  return {
    batchId: checkText("batchId", opening.batchId ?? "") || `batch-${randomUUID().replaceAll("-", "")}`,
    strategy: checkText("strategy", opening.strategy ?? ""),
    maxConcurrency,
    resultOrder: resultOrder === undefined ? Order.UNSPECIFIED : toOrder(resultOrder),
    labels: { ...opening.labels },
    resumeAfterSequence: BigInt(resumeAfterSequence),
    detach: opening.detach ?? false,
  };
}

/** The first frame. */
export function openFrame(open: OpenBatch): Uint8Array {
  return ProcessBatchRequest.encode({ open }).finish();
}

function toOrder(order: ResultOrder): Order {
  switch (order) {
    case "completion":
      return Order.COMPLETION;
    case "submission":
      return Order.SUBMISSION;
    default:
      throw new TypeError(`resultOrder must be "completion" or "submission", not ${JSON.stringify(order)}`);
  }
}
