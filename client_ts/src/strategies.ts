import { toDuration, toMilliseconds } from "./durations.js";
import * as pb from "./gen/batchllm/v1/strategy_service.js";
import type { Duration } from "./gen/google/protobuf/duration.js";
import { nameOf } from "./model.js";

type Optional<T> = { [Key in keyof T]?: T[Key] | undefined };

/**
 * A strategy: how items are turned into calls. The keys of `[strategies.NAME]` in the operator's file, in camel case,
 * with their defaults and checks; what is left out has its default.
 */
export interface StrategySpec extends Optional<
  Omit<
    pb.StrategySpec,
    | "name"
    | "provider"
    | "cacheTtl"
    | "cacheRenewalBuffer"
    | "retry"
    | "generation"
    | "attemptTimeout"
    | "outputJsonSchema"
  >
> {
  /** Its name: 1 to 64 letters, digits, `-`, `_`, `.`; the first a letter or digit. */
  name: string;
  /** Name of a provider of the operator's file. */
  provider: string;
  /** How long a cache lives. Default 3,600 s; at least 1 s. */
  cacheTtlSeconds?: number | undefined;
  /** A cache with less life than this is renewed. Default 300 s, at most half of a shorter TTL. */
  cacheRenewalBufferSeconds?: number | undefined;
  /** Limit on one attempt. Default 120 s; above zero. */
  attemptTimeoutSeconds?: number | undefined;
  /** JSON Schema (draft 2020-12) that outputs must match, as an object or as JSON. Empty: any text. */
  outputJsonSchema?: string | object | undefined;
  /** When and how often to try again. */
  retry?: RetryPolicy | undefined;
  /** Sampling and limits. */
  generation?: GenerationConfig | undefined;
}

/** When and how often a failed attempt is tried again. */
export interface RetryPolicy extends Optional<Omit<pb.RetryPolicy, "initialWait" | "maxWait">> {
  /** Wait after the first failure. Default 1 s; not negative. */
  initialWaitSeconds?: number | undefined;
  /** The longest wait. Default 60 s; not less than `initialWaitSeconds`. */
  maxWaitSeconds?: number | undefined;
}

/** Sampling and limits of generation. What is not set is the provider's default. */
export interface GenerationConfig extends Optional<Omit<pb.GenerationConfig, "seed">> {
  /** Makes sampling repeatable where the provider can. */
  seed?: number | bigint | undefined;
}

/** A strategy and where it comes from. */
export interface Strategy {
  /** The spec with defaults filled in. */
  spec: StrategySpec;
  /** The kind of its provider, e.g. `local` or `simulated`. */
  providerKind: string;
  /** The operator's file, or an RPC. */
  source: keyof typeof pb.StrategySource;
  /** Whether it has been prepared and not released. */
  prepared: boolean;
  /** Streams and calls that use it now. */
  users: number;
}

// Keys that say seconds, and the Durations that they are on the wire.
const SPEC_DURATIONS = {
  cacheTtlSeconds: "cacheTtl",
  cacheRenewalBufferSeconds: "cacheRenewalBuffer",
  attemptTimeoutSeconds: "attemptTimeout",
};
const RETRY_DURATIONS = { initialWaitSeconds: "initialWait", maxWaitSeconds: "maxWait" };

/** The protobuf message of a spec. TypeError: a key is unknown. RangeError: a value cannot be held. */
export function toSpecMessage(spec: StrategySpec): pb.StrategySpec {
  const { outputJsonSchema: schema, retry, generation, ...rest } = spec;
  const message = filled(pb.StrategySpec.create(), rest, SPEC_DURATIONS, "");
  if (schema !== undefined) {
    message.outputJsonSchema = typeof schema === "string" ? schema : JSON.stringify(schema);
  }
  if (retry !== undefined) {
    message.retry = filled(pb.RetryPolicy.create(), retry, RETRY_DURATIONS, "retry.");
  }
  if (generation !== undefined) {
    const seed = generation.seed === undefined ? undefined : BigInt(generation.seed);
    message.generation = filled(pb.GenerationConfig.create(), { ...generation, seed }, {}, "generation.");
  }
  return message;
}

export function toStrategy(message: pb.Strategy): Strategy {
  return {
    spec: toSpec(message.spec ?? pb.StrategySpec.create()),
    providerKind: message.providerKind,
    source: nameOf(pb.StrategySource, message.source),
    prepared: message.prepared,
    users: message.users,
  };
}

function toSpec(message: pb.StrategySpec): StrategySpec {
  const { retry, generation, ...rest } = message;
  const spec = inSeconds(rest, SPEC_DURATIONS) as unknown as StrategySpec;
  if (retry !== undefined) {
    spec.retry = inSeconds(retry, RETRY_DURATIONS);
  }
  if (generation !== undefined) {
    const { seed, ...others } = generation;
    const isSafe = seed !== undefined && Number.isSafeInteger(Number(seed));
    spec.generation = { ...others, seed: isSafe ? Number(seed) : seed };
  }
  return spec;
}

/** Puts what is given into a message. TypeError: there is a key that it does not have; `path` is said before it. */
function filled<Message extends object>(
  message: Message,
  given: object,
  durations: Readonly<Record<string, string>>,
  path: string,
): Message {
  const fields = message as Record<string, unknown>;
  const hidden = new Set(Object.values(durations));
  const known = [...Object.keys(fields).filter((key) => !hidden.has(key)), ...Object.keys(durations)];
  for (const [key, value] of Object.entries(given) as [string, unknown][]) {
    if (!known.includes(key)) {
      throw new TypeError(`a strategy has no key ${path}${key}; there are: ${known.map((k) => path + k).join(", ")}`);
    }
    const duration = durations[key];
    if (value !== undefined) {
      fields[duration ?? key] = duration === undefined ? value : toDuration(Number(value) * 1000, path + key);
    }
  }
  return message;
}

function inSeconds(message: object, durations: Readonly<Record<string, string>>): Record<string, unknown> {
  const fields: Record<string, unknown> = { ...message };
  for (const [key, field] of Object.entries(durations)) {
    const duration = fields[field] as Duration | undefined;
    // eslint-disable-next-line @typescript-eslint/no-dynamic-delete -- a copy, of which the tables above are the names
    delete fields[field];
    fields[key] = duration === undefined ? undefined : toMilliseconds(duration) / 1000;
  }
  return fields;
}
