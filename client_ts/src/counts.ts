import { UnexpectedError } from "./errors.js";

/**
 * A count as a number.
 *
 * @throws UnexpectedError: a number cannot hold it exactly.
 */
export function toCount(value: bigint): number {
  const count = Number(value);
  if (!Number.isSafeInteger(count)) {
    throw new UnexpectedError(`the server sent ${value}, more than a number holds exactly`, { code: "OK" });
  }
  return count;
}
