/**
 * Reads `google.rpc.Status` details. Only the field numbers matter on the wire, so none of it is generated.
 * Source: https://github.com/googleapis/googleapis/blob/master/google/rpc/{status,error_details}.proto
 */
import { BinaryReader } from "@bufbuild/protobuf/wire";

import { toMilliseconds } from "./durations.js";
import { Duration } from "./gen/google/protobuf/duration.js";

export const DETAILS_KEY = "grpc-status-details-bin";
export const DOMAIN = "batchllm.v1";

const ERROR_INFO_URL = "type.googleapis.com/google.rpc.ErrorInfo";
const RETRY_INFO_URL = "type.googleapis.com/google.rpc.RetryInfo";

/** What a status says beyond code and message. */
export interface StatusDetails {
  reason?: string;
  metadata?: Record<string, string>;
  retryAfterMs?: number;
}

/** Reads ErrorInfo (of this protocol's domain) and RetryInfo; what is unknown or broken is passed over. */
export function parseDetails(serialized: Uint8Array): StatusDetails {
  const details: StatusDetails = {};
  try {
    for (const any of all(serialized, 3)) {
      const url = text(any, 1);
      const [value] = all(any, 2);
      if (value !== undefined && url === ERROR_INFO_URL && text(value, 2) === DOMAIN) {
        details.reason = text(value, 1);
        // A map is, on the wire, a repeated message of key and value.
        details.metadata = Object.fromEntries(all(value, 3).map((entry) => [text(entry, 1), text(entry, 2)]));
      } else if (value !== undefined && url === RETRY_INFO_URL) {
        details.retryAfterMs = toMilliseconds(all(value, 1).map((delay) => Duration.decode(delay))[0]);
      }
    }
  } catch {
    // A proxy's garbage must not hide the status itself.
  }
  return details;
}

/** The contents of each field of that number, which is of a type with a length: text, bytes or a message. */
function all(message: Uint8Array, wanted: number): Uint8Array[] {
  const found: Uint8Array[] = [];
  const reader = new BinaryReader(message);
  while (reader.pos < reader.len) {
    const [field, type] = reader.tag();
    if (field === wanted) {
      found.push(reader.bytes());
    } else {
      reader.skip(type, field);
    }
  }
  return found;
}

function text(message: Uint8Array, field: number): string {
  return new TextDecoder().decode(all(message, field)[0]);
}
