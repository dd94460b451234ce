/** A small sidecar to talk to: a real gRPC server in this process whose answers the tests script. */
import { once } from "node:events";

import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import {
  Metadata,
  Server,
  ServerCredentials,
  status,
  type sendUnaryData,
  type ServerDuplexStream,
  type ServerUnaryCall,
} from "@grpc/grpc-js";

import type { StatusCode } from "../src/index.js";
import {
  BatchServiceService,
  BatchState,
  GetBatchResponse,
  ProcessBatchResponse,
  ResultOrder,
  type GetBatchRequest,
  type OpenBatch,
  type ProcessBatchRequest,
  type ProcessItemRequest,
  type ProcessItemResponse,
} from "../src/gen/batchllm/v1/batch_service.js";
import { WorkItem, WorkItemResult } from "../src/gen/batchllm/v1/work.js";
import { Duration } from "../src/gen/google/protobuf/duration.js";
import { DETAILS_KEY, DOMAIN } from "../src/status.js";

export type Call = ServerDuplexStream<ProcessBatchRequest, ProcessBatchResponse>;
export type Frame = ReturnType<typeof frame>;
export const frame = ProcessBatchResponse.fromPartial.bind(ProcessBatchResponse);

interface FaultFacts {
  code?: StatusCode;
  reason?: string;
  metadata?: Record<string, string>;
  retryAfterMs?: number;
}

/**
 * Ends one stream or call. With a moment, the first stream that comes to it when its batch has so many items or results:
 * `items` read and not yet accepted, `accepted` sent, `result` sent, `totals` sent.
 */
export class Fault extends Error {
  constructor(
    readonly moment = "",
    readonly count = 0,
    readonly facts: FaultFacts = {},
  ) {
    super("dropped");
  }

  get status() {
    const code = status[this.facts.code ?? "UNAVAILABLE"];
    const metadata = new Metadata();
    if (this.facts.reason !== undefined) {
      metadata.set(DETAILS_KEY, Buffer.from(richStatus(this.facts)));
    }
    return { code, details: this.facts.reason === undefined ? "dropped" : "no, because", metadata };
  }
}

/** A `google.rpc.Status` as the real server makes it. */
export function richStatus({ reason = "", metadata = {}, retryAfterMs }: FaultFacts, domain = DOMAIN): Uint8Array {
  const info = new BinaryWriter().uint32(tag(1)).string(reason).uint32(tag(2)).string(domain);
  for (const [key, value] of Object.entries(metadata)) {
    info.uint32(tag(3)).fork().uint32(tag(1)).string(key).uint32(tag(2)).string(value).join();
  }
  const details: [string, Uint8Array][] = [["ErrorInfo", info.finish()]];
  if (retryAfterMs !== undefined) {
    const seconds = Math.floor(retryAfterMs / 1000);
    const delay = { seconds: BigInt(seconds), nanos: (retryAfterMs - seconds * 1000) * 1e6 };
    const retry = new BinaryWriter().uint32(tag(1)).bytes(Duration.encode(delay).finish());
    details.push(["RetryInfo", retry.finish()]);
  }
  const writer = new BinaryWriter().uint32((1 << 3) | WireType.Varint).int32(9);
  for (const [name, value] of details) {
    const any = writer.uint32(tag(3)).fork().uint32(tag(1)).string(`type.googleapis.com/google.rpc.${name}`);
    any.uint32(tag(2)).bytes(value).join();
  }
  return writer.finish();
}

function tag(field: number): number {
  return (field << 3) | WireType.LengthDelimited;
}

/** What the client sends. Its end must not end the answers. */
export function requestsOf(call: Call): AsyncIterator<ProcessBatchRequest, undefined> {
  return call.iterator({ destroyOnReturn: false }) as AsyncIterator<ProcessBatchRequest, undefined>;
}

/** A batch in the journal. */
export interface Log {
  opening: OpenBatch;
  items: Map<string, WorkItem>;
  results: WorkItemResult[];
  sealed: boolean;
}

export type Script = (call: Call) => AsyncIterable<Frame>;

/** Echoes prompts. It keeps a journal, which outlives a restart unless a test empties it. */
export class FakeSidecar implements AsyncDisposable {
  target = "";
  maxMessageBytes = 4 * 1024 * 1024;
  durable = true;
  /** A stream's whole behaviour, where set. */
  script: Script | undefined;
  faults: Fault[] = [];
  refusals: Fault[] = [];
  readonly journal = new Map<string, Log>();
  readonly opens: OpenBatch[] = [];
  readonly frames: WorkItem[][] = [];
  readonly requests: ProcessItemRequest[] = [];
  /** What each stream sent, by item id. */
  readonly received: string[][] = [];
  /** States that GetBatch tells before the true one. */
  readonly states: (BatchState | Fault)[] = [];
  /** Streams that came to an end other than `batch_result`. */
  readonly brokenOff = new Set<Call>();
  #server: Server | undefined;

  static async start(address = "127.0.0.1:0"): Promise<FakeSidecar> {
    const sidecar = new FakeSidecar();
    await sidecar.start(address);
    return sidecar;
  }

  /** Serves at an address, or where it was before. */
  async start(address = this.target): Promise<void> {
    const server = (this.#server = new Server());
    const unary = <Request, Response>(answer: (request: Request) => Response) => {
      return (call: ServerUnaryCall<Request, Response>, reply: sendUnaryData<Response>) => {
        try {
          reply(null, answer(call.request));
        } catch (error) {
          reply((error as Fault).status);
        }
      };
    };
    server.addService(BatchServiceService, {
      processBatch: (call: Call) => void this.#serve(call),
      processItem: unary((request: ProcessItemRequest) => this.#processItem(request)),
      getBatch: unary((request: GetBatchRequest) => this.#getBatch(request)),
    });
    const port = await new Promise<number>((resolve, reject) => {
      server.bindAsync(address, ServerCredentials.createInsecure(), (error, bound) => {
        if (error) {
          reject(error);
        } else {
          resolve(bound);
        }
      });
    });
    this.target = address.startsWith("unix:") ? address : `127.0.0.1:${port}`;
  }

  /** Breaks all connections. */
  stop(): void {
    this.#server?.forceShutdown();
    this.#server = undefined;
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.stop();
    return Promise.resolve();
  }

  /** The answer to `open`. */
  opened(opening: OpenBatch, log?: Log): Frame {
    this.opens.push(opening);
    return frame({
      opened: {
        batchId: opening.batchId,
        strategy: opening.strategy,
        maxConcurrency: opening.maxConcurrency || 32,
        resultOrder: opening.resultOrder || ResultOrder.COMPLETION,
        maxMessageBytes: BigInt(this.maxMessageBytes),
        serverVersion: "0.3.0",
        items: BigInt(log?.items.size ?? 0),
        lastSequence: BigInt(log?.results.length ?? 0),
        durable: this.durable,
      },
    });
  }

  async *echo(call: Call): AsyncGenerator<Frame, void, undefined> {
    const requests = requestsOf(call);
    const opening = (await requests.next()).value?.open;
    if (opening === undefined) {
      throw new Fault("", 0, { code: "INVALID_ARGUMENT", reason: "OPEN_FRAME_REQUIRED" });
    }
    this.#refuse();
    const known = this.journal.get(opening.batchId);
    const log: Log = known ?? { opening, items: new Map(), results: [], sealed: false };
    this.journal.set(opening.batchId, log);
    if (Number(opening.resumeAfterSequence) > log.results.length) {
      const metadata = { field: "resume_after_sequence" };
      throw new Fault("", 0, { code: "INVALID_ARGUMENT", reason: "INVALID_FIELD", metadata });
    }
    yield this.opened(opening, log);
    for (const recorded of log.results.slice(Number(opening.resumeAfterSequence))) {
      yield frame({ results: { results: [{ ...recorded, replayed: true }] } });
    }
    const received: string[] = [];
    this.received.push(received);
    yield* this.#run(log);
    for (let step = await requests.next(); step.value !== undefined; step = await requests.next()) {
      if (step.value.items === undefined) {
        throw new Fault("", 0, { code: "INVALID_ARGUMENT", reason: "FRAME_EMPTY" });
      }
      const { items } = step.value.items;
      this.frames.push(items);
      received.push(...items.map((item) => item.itemId));
      this.#failAt("items", log.items.size);
      for (const item of items) {
        log.items.set(item.itemId, log.items.get(item.itemId) ?? item);
      }
      yield frame({ accepted: { items: BigInt(log.items.size), received: BigInt(received.length) } });
      this.#failAt("accepted", log.items.size);
      yield* this.#run(log);
      yield frame({ progress: { done: BigInt(log.results.length), elapsed: { seconds: 1n } } });
    }
    if (call.cancelled) {
      return; // its end was no half-close
    }
    log.sealed = true;
    const count = BigInt(log.results.length);
    yield frame({
      batchResult: { batchId: opening.batchId, totalItems: count, succeeded: count, elapsed: { nanos: 500_000_000 } },
    });
    this.#failAt("totals", 0);
  }

  /** Each item once, in order; a frame for each result. */
  async *#run(log: Log): AsyncGenerator<Frame, void, undefined> {
    for (const item of [...log.items.values()].slice(log.results.length)) {
      log.results.push(this.#result(item, log.results.length));
      yield frame({ results: { results: log.results.slice(-1) } });
      this.#failAt("result", log.results.length);
      await Promise.resolve();
    }
  }

  #result(item: WorkItem, index: number): WorkItemResult {
    return WorkItemResult.fromPartial({
      itemId: item.itemId,
      submissionIndex: BigInt(index),
      sequence: BigInt(index + 1),
      output: { text: item.prompt, finishReason: "stop" },
      usage: { inputTokens: 10n, outputTokens: 2n, totalTokens: 12n, cachedInputTokens: 5n },
      attempts: 1,
      elapsed: { nanos: 250_000_000 },
      context: item.context,
    });
  }

  #processItem(request: ProcessItemRequest): ProcessItemResponse {
    this.requests.push(request);
    this.#refuse();
    return { result: this.#result(request.item ?? WorkItem.create(), 0) };
  }

  #getBatch({ batchId }: GetBatchRequest): GetBatchResponse {
    const log = this.journal.get(batchId);
    const told = this.states.shift();
    if (told instanceof Fault) {
      throw told;
    }
    if (log === undefined) {
      throw new Fault("", 0, { code: "NOT_FOUND", reason: "BATCH_NOT_FOUND" });
    }
    const state = told ?? (log.sealed ? BatchState.FINISHED : BatchState.OPEN);
    return GetBatchResponse.fromPartial({ batch: { batchId, state, detach: log.opening.detach } });
  }

  #refuse(): void {
    const refusal = this.refusals.shift();
    if (refusal !== undefined) {
      throw refusal;
    }
  }

  #failAt(moment: string, count: number): void {
    const [fault] = this.faults;
    if (fault?.moment === moment && count >= fault.count) {
      this.faults.shift();
      throw fault;
    }
  }

  async #serve(call: Call): Promise<void> {
    const gone = new AbortController();
    call.on("error", () => undefined);
    call.on("cancelled", () => {
      this.brokenOff.add(call);
      gone.abort();
    });
    try {
      for await (const answer of this.script?.(call) ?? this.echo(call)) {
        if (!call.write(answer)) {
          await once(call, "drain", { signal: gone.signal });
        }
      }
      call.end();
    } catch (error) {
      this.brokenOff.add(call);
      if (error instanceof Fault) {
        call.emit("error", error.status);
      } else if (!(call.cancelled || call.destroyed)) {
        throw error; // any other than that the client went away
      }
    }
  }
}
