import { encode, within, type Limits } from "./frames.js";
import type { WorkItem } from "./model.js";
import { Window } from "./window.js";

/** Where frames go: the request side of a call. */
export interface FrameSink {
  /** False: no more before `drain`. */
  write(frame: Uint8Array): boolean;
  end(): unknown;
  on(event: "drain", listener: () => void): unknown;
}

/** Who is told how the source ended. */
export interface SourceListener {
  onRead(): void;
  /** With what it threw, or what is wrong with an item. */
  onFailure(error: unknown): void;
}

/**
 * Sends a batch's items, on one stream after the other.
 *
 * The source is read on its own, since one may wait between items: what is at hand goes out meanwhile. The window's
 * bounds stop the reading when sending stalls.
 */
export class Outgoing {
  readonly #items: Iterable<WorkItem> | AsyncIterable<WorkItem>;
  readonly #window: Window;
  readonly #listener: SourceListener;
  #source: Iterator<WorkItem> | AsyncIterator<WorkItem> | undefined;
  #sink: FrameSink | undefined;
  #flowing = false;
  #writable = false;
  #scheduled = false;
  #read = false;
  #over = false;
  #wake: () => void = () => undefined;

  /** TypeError: `items` cannot be iterated. */
  constructor(items: Iterable<WorkItem> | AsyncIterable<WorkItem>, limits: Limits, listener: SourceListener) {
    const source = Object(items) as object;
    if (!(Symbol.asyncIterator in source || Symbol.iterator in source)) {
      throw new TypeError(`items must be an Iterable or AsyncIterable, such as an array, not ${JSON.stringify(items)}`);
    }
    this.#items = items;
    this.#window = new Window(limits);
    this.#listener = listener;
  }

  /** Whether the source has ended and the server holds all of it. */
  get settled(): boolean {
    return this.#read && this.#window.size === 0;
  }

  /** Begins a new stream: `opening`, then, once it flows, what is not confirmed, then what follows. */
  start(sink: FrameSink, opening: Uint8Array): void {
    this.#window.rewind();
    this.#sink = sink;
    this.#flowing = false;
    this.#writable = true;
    sink.on("drain", () => {
      if (this.#sink === sink) {
        this.#writable = true;
        this.#flush();
      }
    });
    sink.write(opening);
  }

  /** Lets items flow on the present stream, within the server's message limit in bytes. */
  begin(serverBytes: number): void {
    this.#window.limits = within(this.#window.limits, serverBytes);
    this.#flowing = true;
    if (this.#source === undefined) {
      void this.#pump();
    }
    this.#flush();
  }

  /** Lets go of the first `received` items of the present stream. */
  confirm(received: number): void {
    this.#window.confirm(received);
    this.#wake();
  }

  /** Notes that the present stream has ended; the batch may go on with another. */
  end(): void {
    this.#sink = undefined; // what it took now would be lost
  }

  /** Ends the reading of the source; the batch is over. */
  stop(): void {
    this.#over = true;
    this.#sink = undefined;
    this.#wake();
    void this.#release();
  }

  async #pump(): Promise<void> {
    const window = this.#window;
    try {
      this.#source =
        Symbol.asyncIterator in this.#items ? this.#items[Symbol.asyncIterator]() : this.#items[Symbol.iterator]();
      for (let step = await this.#source.next(); !step.done; step = await this.#source.next()) {
        const item = encode(step.value, window.limits.maxMessageBytes);
        while (!(this.#over || window.fits(item.cost))) {
          await this.#room();
        }
        if (this.#over) {
          await this.#release(); // again, if it was running when it was told
          return;
        }
        window.add(item);
        this.#flushSoon();
      }
      this.#read = true;
      this.#flush();
      this.#listener.onRead();
    } catch (error) {
      if (!this.#over) {
        this.#listener.onFailure(error);
      }
    }
  }

  /** Sends what waits, and if that made no room, waits for it. */
  async #room(): Promise<void> {
    const room = new Promise<void>((resolve) => {
      this.#wake = resolve;
    });
    this.#flush();
    await room;
  }

  /** Sends what waits once the source has given what it has at hand. */
  #flushSoon(): void {
    if (!this.#scheduled) {
      this.#scheduled = true;
      setImmediate(() => {
        this.#scheduled = false;
        this.#flush();
      });
    }
  }

  #flush(): void {
    const sink = this.#sink;
    if (sink === undefined || !this.#flowing) {
      return;
    }
    while (this.#writable && this.#window.waiting) {
      this.#writable = sink.write(this.#window.take());
      this.#wake();
    }
    // A half-close tells the server that all is well: one whose source failed, or was not read to its end, gets none.
    if (this.#read && !this.#window.waiting) {
      this.#flowing = false;
      sink.end();
    }
  }

  async #release(): Promise<void> {
    if (!this.#read) {
      try {
        await this.#source?.return?.();
      } catch {
        // The batch is over, and its end has been told.
      }
    }
  }
}
