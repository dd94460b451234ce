import { UnexpectedError } from "./errors.js";
import { FRAME_BYTES, itemsFrame, type EncodedItem, type Limits } from "./frames.js";

/**
 * Items in the order of their source, from the first unconfirmed one to the last one read: those that the server has
 * not confirmed yet, then those that wait for a frame.
 *
 * Bounded by the limits: what waits is at most a frame, unless a new stream has put back what was sent on the former.
 */
export class Window {
  limits: Limits;
  #sent: EncodedItem[] = [];
  #waiting: EncodedItem[] = [];
  #bytes = 0;
  #waitingBytes = 0;
  #confirmed = 0;

  constructor(limits: Limits) {
    this.limits = limits;
  }

  /** How many are not confirmed, those that wait included. */
  get size(): number {
    return this.#sent.length + this.#waiting.length;
  }

  /** Whether there is something to send. */
  get waiting(): boolean {
    return this.#waiting.length > 0;
  }

  /** Whether an item of `cost` bytes may be added; an empty window takes any. */
  fits(cost: number): boolean {
    const { frameItems, frameBytes, unconfirmedItems, unconfirmedBytes } = this.limits;
    const frameIsFull = this.#waiting.length >= frameItems || this.#waitingBytes + cost > frameBytes - FRAME_BYTES;
    if (this.waiting && frameIsFull) {
      return false;
    }
    return this.size === 0 || (this.size < unconfirmedItems && this.#bytes + cost <= unconfirmedBytes);
  }

  /** Adds an item that fits. */
  add(item: EncodedItem): void {
    this.#waiting.push(item);
    this.#waitingBytes += item.cost;
    this.#bytes += item.cost;
  }

  /** Makes the next frame of what waits, of one item at least. They stay here until they are confirmed. */
  take(): Uint8Array {
    const { frameItems, frameBytes } = this.limits;
    let count = 0;
    let bytes = 0;
    for (const { cost } of this.#waiting) {
      if (count > 0 && (count >= frameItems || FRAME_BYTES + bytes + cost > frameBytes)) {
        break;
      }
      count += 1;
      bytes += cost;
    }
    const taken = this.#waiting.splice(0, count);
    this.#waitingBytes -= bytes;
    this.#sent.push(...taken);
    return itemsFrame(taken);
  }

  /** Lets go of the first `received` items of the present stream. UnexpectedError: so many were never sent. */
  confirm(received: number): void {
    const count = received - this.#confirmed;
    if (count > this.#sent.length) {
      const sent = this.#confirmed + this.#sent.length;
      throw new UnexpectedError(`the server confirmed ${received} items of a stream that has ${sent}`, { code: "OK" });
    }
    if (count > 0) {
      for (const { cost } of this.#sent.splice(0, count)) {
        this.#bytes -= cost;
      }
      this.#confirmed = received;
    }
  }

  /** Begins a new stream: what was not confirmed is to be sent again. */
  rewind(): void {
    for (const { cost } of this.#sent) {
      this.#waitingBytes += cost;
    }
    this.#waiting = this.#sent.concat(this.#waiting);
    this.#sent = [];
    this.#confirmed = 0;
  }
}
