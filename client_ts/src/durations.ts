import type { Duration } from "./gen/google/protobuf/duration.js";

/** Source: https://protobuf.dev/reference/protobuf/google.protobuf/#duration */
const MAX_DURATION_SECONDS = 315_576_000_000;

/** Gives back the milliseconds of a timeout. RangeError: they are negative or not a number. */
export function checkTimeout(timeoutMs: number): number {
  if (!(timeoutMs >= 0)) {
    throw new RangeError(`timeoutMs must be at least 0, not ${timeoutMs}`);
  }
  return timeoutMs;
}

/**
 * Milliseconds as a Duration, to the nanosecond.
 *
 * @throws RangeError: the number is infinite, not a number, or more than a Duration holds; `name` is said to be at fault.
 */
export function toDuration(milliseconds: number, name: string): Duration {
  const seconds = Math.trunc(milliseconds / 1000);
  if (!(Math.abs(seconds) <= MAX_DURATION_SECONDS)) {
    throw new RangeError(`${name} must be a finite number within 10,000 years, not ${milliseconds}`);
  }
  const nanos = Math.round((milliseconds - seconds * 1000) * 1e6);
  return Math.abs(nanos) === 1e9
    ? { seconds: BigInt(seconds + Math.sign(nanos)), nanos: 0 }
    : { seconds: BigInt(seconds), nanos };
}

/** A Duration in milliseconds; 0 where there is none. */
export function toMilliseconds(duration: Duration | undefined): number {
  return duration === undefined ? 0 : Number(duration.seconds) * 1000 + duration.nanos / 1e6;
}
