/** Adapter of the generated code alone: `node build/conformance/raw.js`. */
import { credentials, Metadata, status, type ClientDuplexStream, type ServiceError } from "@grpc/grpc-js";

import * as batches from "../src/gen/batchllm/v1/batch_service.js";
import * as caches from "../src/gen/batchllm/v1/cache_lifecycle_service.js";
import * as strategies from "../src/gen/batchllm/v1/strategy_service.js";
import { Named, serve, type Answer } from "./commands.js";
import { parse, show } from "./protocol.js";

const CALL_MS = 60_000;

type Call = ClientDuplexStream<batches.ProcessBatchRequest, batches.ProcessBatchResponse>;
type Unary = (
  request: unknown,
  metadata: object,
  options: object,
  done: (error: Error | null, response: unknown) => void,
) => unknown;
type Generated = Parameters<typeof parse<unknown>>[1];

interface Stream {
  readonly call: Call;
  readonly ended: Promise<void>;
  over: boolean;
  failure: Error | undefined;
  wake: () => void;
}

interface Stubs {
  readonly all: (batches.BatchServiceClient | strategies.StrategyServiceClient | caches.CacheLifecycleServiceClient)[];
  readonly batches: batches.BatchServiceClient;
}

const clients = new Named<Stubs>();
const streams = new Named<Stream>();

function deadline(seconds: number | undefined) {
  return seconds === undefined ? {} : { deadline: Date.now() + seconds * 1000 };
}

async function call(stubs: Stubs, method: string, json: unknown, seconds: number | undefined): Promise<Answer> {
  const name = method.charAt(0).toLowerCase() + method.slice(1);
  const stub = stubs.all.find((one) => name in one);
  const messages = { ...batches, ...strategies, ...caches } as unknown as Record<string, Generated>;
  const [request, response] = [messages[`${method}Request`], messages[`${method}Response`]];
  if (stub === undefined || request === undefined || response === undefined) {
    throw new Error(`no method ${method}`);
  }
  const answer = await new Promise((resolve, reject) => {
    const run = (stub as unknown as Record<string, Unary>)[name]?.bind(stub);
    const message = parse(`${method}Request`, request, json);
    run?.(message, new Metadata(), deadline(seconds ?? CALL_MS / 1000), (error, got) => {
      if (error === null) {
        resolve(got);
      } else {
        reject(error);
      }
    });
  });
  return { response: show(`${method}Response`, response, answer) };
}

await serve(
  {
    hello: () => ({ name: "typescript-generated", sets: ["raw"] }),
    connect: ({ client, target }: { client: string; target: string }) => {
      const insecure = credentials.createInsecure();
      const batchStub = new batches.BatchServiceClient(target, insecure);
      const strategyStub = new strategies.StrategyServiceClient(target, insecure);
      const cacheStub = new caches.CacheLifecycleServiceClient(target, insecure);
      clients.set(client, { batches: batchStub, all: [batchStub, strategyStub, cacheStub] });
      return undefined;
    },
    close: ({ client }: { client: string }) => {
      for (const stub of clients.of(client).all) {
        stub.close();
      }
      return undefined;
    },
    call: (command: { client: string; method: string; request: unknown; timeout?: number }) =>
      call(clients.of(command.client), command.method, command.request, command.timeout),
    "stream.open": ({ client, stream, timeout }: { client: string; stream: string; timeout?: number }) => {
      const started = clients.of(client).batches.processBatch(deadline(timeout));
      const ended = new Promise<void>((resolve) => started.once("status", resolve));
      const kept: Stream = { call: started, ended, over: false, failure: undefined, wake: () => undefined };
      started.on("readable", () => {
        kept.wake();
      });
      started.on("error", (error) => {
        kept.failure = error;
      });
      started.on("status", () => {
        kept.over = true;
        kept.wake();
      });
      streams.set(stream, kept);
      return undefined;
    },
    "stream.send": async ({ stream, frame }: { stream: string; frame: unknown }) => {
      const { call: sending, ended } = streams.of(stream);
      const message = parse("ProcessBatchRequest", batches.ProcessBatchRequest, frame);
      await Promise.race([ended, new Promise((resolve) => sending.write(message, resolve))]);
      return undefined;
    },
    "stream.half_close": ({ stream }: { stream: string }) => {
      streams.of(stream).call.end();
      return undefined;
    },
    "stream.next": async ({ stream }: { stream: string }) => {
      const kept = streams.of(stream);
      // Not by the iterator: an error would make it forget frames that came before.
      for (;;) {
        const frame = kept.call.read() as batches.ProcessBatchResponse | null;
        if (frame !== null) {
          return { frame: show("ProcessBatchResponse", batches.ProcessBatchResponse, frame) };
        }
        if (kept.over) {
          break;
        }
        await new Promise<void>((resolve) => (kept.wake = resolve));
      }
      if (kept.failure !== undefined) {
        throw kept.failure;
      }
      return { end: true };
    },
    "stream.cancel": ({ stream }: { stream: string }) => {
      const { call: running } = streams.of(stream);
      // Node half-closes what it cancels, so that the batch would take no more; see hangUp in src/connection.ts.
      running.write(batches.ProcessBatchRequest.create(), () => {
        running.cancel();
      });
      return undefined;
    },
  },
  (error) => {
    const { code, details, metadata } = error as Partial<ServiceError>;
    if (code === undefined || details === undefined || metadata === undefined) {
      return undefined;
    }
    const [trailer] = metadata.get("grpc-status-details-bin");
    const encoded = trailer === undefined ? "" : Buffer.from(trailer).toString("base64");
    return { code: status[code], message: details, details: encoded };
  },
);
process.exit(0);
