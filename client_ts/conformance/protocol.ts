/** Protobuf's JSON, by the descriptors that `make` writes beside the compiled code. */
import { readFileSync } from "node:fs";

import {
  createFileRegistry,
  fromBinary,
  fromJson,
  toBinary,
  toJson,
  type DescMessage,
  type JsonObject,
  type JsonValue,
} from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";

const descriptors = readFileSync(new URL("../protocol.binpb", import.meta.url));
const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, descriptors));

/** What the generated code has of a message. */
interface Generated<T> {
  encode(message: T): { finish(): Uint8Array };
  decode(bytes: Uint8Array): T;
}

export function parse<T>(name: string, generated: Generated<T>, json: unknown): T {
  const schema = schemaOf(name);
  return generated.decode(toBinary(schema, fromJson(schema, json as JsonValue)));
}

export function show<T>(name: string, generated: Generated<T>, message: T): JsonObject {
  const schema = schemaOf(name);
  return toJson(schema, fromBinary(schema, generated.encode(message).finish())) as JsonObject;
}

function schemaOf(name: string): DescMessage {
  const schema = registry.getMessage(`batchllm.v1.${name}`);
  if (schema === undefined) {
    throw new Error(`no message ${name}`);
  }
  return schema;
}
