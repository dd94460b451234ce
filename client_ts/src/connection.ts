import { setMaxListeners } from "node:events";

import {
  Client,
  connectivityState,
  credentials,
  InterceptingCall,
  Metadata,
  type CallOptions as GrpcCallOptions,
  type ClientDuplexStream,
  type Interceptor,
  type MethodDefinition,
} from "@grpc/grpc-js";

import { channelOptions } from "./channel.js";
import { cancelled, closed, fromServiceError, unavailable } from "./errors.js";
import { BatchServiceService, type ProcessBatchResponse } from "./gen/batchllm/v1/batch_service.js";

/** A `ProcessBatch` call: frames that are encoded already go in. */
export type BatchCall = ClientDuplexStream<Uint8Array, ProcessBatchResponse>;

/** A call, and what the server answers, of which no more is read than is asked for. */
export interface BatchStream {
  readonly call: BatchCall;
  readonly frames: AsyncIterable<ProcessBatchResponse>;
}

// How long a frame may take to leave before the stream is cancelled all the same.
const HANG_UP_MS = 100;

/** When a call is to end, at the latest. */
export interface CallOptions {
  /** Its deadline in milliseconds; `Infinity` for none. */
  timeoutMs?: number | undefined;
  /** Cancels it: then it throws the signal's reason, an `AbortError` unless you gave another. */
  signal?: AbortSignal | undefined;
}

/** One connection to a sidecar, and what runs on it. */
export class Connection {
  readonly target: string;
  readonly #client: Client;
  readonly #running = new Set<() => void>();
  #closed = false;

  constructor(target: string, maxMessageBytes: number) {
    this.target = target;
    this.#client = new Client(target, credentials.createInsecure(), channelOptions(maxMessageBytes));
  }

  /** Makes a call with one answer. */
  async unary<Request, Response>(
    method: MethodDefinition<Request, Response>,
    request: Request,
    { timeoutMs, signal }: CallOptions,
  ): Promise<Response> {
    const message = method.requestSerialize(request);
    return await new Promise<Response>((resolve, reject) => {
      let stopped: { readonly reason: unknown } | undefined;
      const release = this.guard(signal, (reason) => {
        stopped = { reason };
        call.cancel();
      });
      const call = this.#client.makeUnaryRequest(
        method.path,
        (encoded: Buffer) => encoded,
        method.responseDeserialize,
        message,
        new Metadata(),
        callOptions(timeoutMs),
        (error, response) => {
          release();
          if (stopped !== undefined) {
            // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- a signal's reason may be anything
            reject(stopped.reason);
          } else if (error !== null) {
            reject(fromServiceError(error, this.target));
          } else {
            resolve(response as Response);
          }
        },
      );
    });
  }

  /** Starts a `ProcessBatch` call. It has no deadline, which would end it as `cancel()` does: see `hangUp`. */
  stream(): BatchStream {
    const { path, responseDeserialize } = BatchServiceService.processBatch;
    const turnstile = new Turnstile();
    const options = { interceptors: [turnstile.interceptor] };
    const call = this.#client.makeBidiStreamRequest(path, asBuffer, responseDeserialize, new Metadata(), options);
    call.on("error", () => undefined); // who reads it is told; one that comes after that is no news
    return { call, frames: framesOf(call, turnstile) };
  }

  /** Waits until the sidecar can be reached. SidecarUnavailableError: it cannot. ClientClosedError: closed meanwhile. */
  async waitUntilReady(timeoutMs: number): Promise<void> {
    // gRPC's own waitForReady has a channel that is closed connect again.
    this.checkOpen();
    const channel = this.#client.getChannel();
    const deadline = Date.now() + timeoutMs;
    let state = channel.getConnectivityState(true);
    while (state !== connectivityState.READY) {
      const late = await new Promise<Error | undefined>((resolve) => {
        channel.watchConnectivityState(state, deadline, resolve);
      });
      this.checkOpen();
      if (late !== undefined) {
        throw unavailable(this.target, timeoutMs);
      }
      state = channel.getConnectivityState(true);
    }
  }

  /**
   * Calls `cancel` with a reason when the signal is aborted or the client closed. Gives what ends that.
   *
   * @throws ClientClosedError, or the signal's reason: that has been already.
   */
  guard(signal: AbortSignal | undefined, cancel: (reason: unknown) => void): () => void {
    this.checkOpen();
    signal?.throwIfAborted();
    const onClose = () => {
      cancel(cancelled(this.target));
    };
    const onAbort = () => {
      cancel(signal?.reason);
    };
    this.#running.add(onClose);
    if (signal !== undefined) {
      setMaxListeners(0, signal); // many batches may share one, and each lets go of it
    }
    signal?.addEventListener("abort", onAbort, { once: true });
    return () => {
      this.#running.delete(onClose);
      signal?.removeEventListener("abort", onAbort);
    };
  }

  /** ClientClosedError: it is closed. */
  checkOpen(): void {
    if (this.#closed) {
      throw closed(this.target);
    }
  }

  /** Cancels what runs and closes the connection. */
  close(): void {
    this.#closed = true;
    for (const cancel of this.#running) {
      cancel();
    }
    this.#client.close();
  }
}

/**
 * Cancels a stream whose items were not all sent.
 *
 * Node half-closes an HTTP/2 stream before it resets it (`Http2Stream.close()` calls `end()`), and a half-close tells the
 * sidecar that the batch has all its items. So an empty frame goes before both: the sidecar ends the stream with it. Where
 * it cannot leave, what waits before it holds the half-close back as well.
 */
export function hangUp(call: BatchCall): void {
  if (call.writableEnded || call.destroyed) {
    call.cancel();
    return;
  }
  const cancel = () => {
    clearTimeout(timer);
    call.cancel();
  };
  const timer = setTimeout(cancel, HANG_UP_MS);
  call.write(new Uint8Array(), cancel);
}

async function* framesOf(call: BatchCall, turnstile: Turnstile): AsyncGenerator<ProcessBatchResponse, void, undefined> {
  const frames = call.iterator({ destroyOnReturn: false }) as AsyncIterator<ProcessBatchResponse, undefined>;
  for (;;) {
    turnstile.ask();
    const step = await frames.next();
    if (step.done === true) {
      return;
    }
    yield step.value;
  }
}

/** Lets a message through when it is asked for. By itself a call in grpc-js reads sixteen ahead of its reader. */
class Turnstile {
  #asked = false;
  #pass: (() => void) | undefined;

  readonly interceptor: Interceptor = (options, nextCall) =>
    new InterceptingCall(nextCall(options), {
      start: (metadata, _listener, next) => {
        next(metadata, {
          onReceiveMessage: (message, pass) => {
            this.#pass = () => {
              pass(message);
            };
            this.#turn();
          },
        });
      },
    });

  ask(): void {
    this.#asked = true;
    this.#turn();
  }

  #turn(): void {
    const pass = this.#pass;
    if (this.#asked && pass !== undefined) {
      this.#asked = false;
      this.#pass = undefined;
      pass();
    }
  }
}

function callOptions(timeoutMs: number | undefined): GrpcCallOptions {
  return timeoutMs === undefined || timeoutMs === Infinity ? {} : { deadline: Date.now() + timeoutMs };
}

function asBuffer(frame: Uint8Array): Buffer {
  return Buffer.from(frame.buffer, frame.byteOffset, frame.byteLength);
}
