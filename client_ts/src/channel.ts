import type { ChannelOptions } from "@grpc/grpc-js";

export const DEFAULT_TARGET = "127.0.0.1:50051";
export const DEFAULT_TIMEOUT_MS = 60_000;
export const DEFAULT_MAX_MESSAGE_BYTES = 16 * 1024 * 1024;
export const DEFAULT_FRAME_ITEMS = 64;
export const DEFAULT_FRAME_BYTES = 512 * 1024;
export const DEFAULT_UNCONFIRMED_ITEMS = 4096;
export const DEFAULT_UNCONFIRMED_BYTES = 32 * 1024 * 1024;

const KEEPALIVE_MS = 10_000;
const EXAMPLE = `host:port or unix:PATH, e.g. ${DEFAULT_TARGET}`;
const NO_PATH = /^unix:(\/\/)?$/;
const PORT = /^(?!unix:).*:(\d+)$/s;
const MAX_PORT = 65_535;

/** TypeError or RangeError: it can be no target. */
export function checkTarget(target: string): void {
  if (typeof target !== "string") {
    throw new TypeError(`the target must be a string, ${EXAMPLE}, not ${String(target)}`);
  }
  if (target === "") {
    throw new TypeError(`the target must not be empty: give ${EXAMPLE}`);
  }
  if (NO_PATH.test(target)) {
    throw new TypeError(`the target must have a path after "${target}": give ${EXAMPLE}`);
  }
  const port = PORT.exec(target)?.[1];
  if (Number(port) > MAX_PORT) {
    throw new RangeError(`the target's port must be at most ${MAX_PORT}, not ${port} (${target})`);
  }
}

/** The channel's options; `maxMessageBytes` bounds what is sent. */
export function channelOptions(maxMessageBytes: number): ChannelOptions {
  return {
    "grpc.max_send_message_length": maxMessageBytes,
    "grpc.max_receive_message_length": -1,
    // A sidecar is beside its service: a company's http_proxy must not come between, nor a look-up of TXT records.
    "grpc.enable_http_proxy": 0,
    "grpc.service_config_disable_resolution": 1,
    // gRPC's own pause between attempts to connect grows to 120 s; ours are in ResumePolicy.
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 1000,
    // A network that is gone without a reset would leave a batch waiting for ever. The sidecar allows these pings;
    // see https://github.com/grpc/grpc/blob/master/doc/keepalive.md.
    "grpc.keepalive_time_ms": KEEPALIVE_MS,
    "grpc.keepalive_timeout_ms": KEEPALIVE_MS,
    // One client, one connection, which ends with it.
    "grpc.use_local_subchannel_pool": 1,
  };
}
