export { Batch } from "./batch.js";
export { BatchClient, type BatchOptions, type CacheOptions, type ClientOptions, type FollowOptions } from "./client.js";
export type { Clock } from "./clock.js";
export type { CallOptions } from "./connection.js";
export {
  AbortedError,
  AlreadyExistsError,
  BatchInUseError,
  BatchLLMClientError,
  BatchLostError,
  BatchNotFinishedError,
  BatchNotFoundError,
  CallCancelledError,
  ClientClosedError,
  DeadlineExceededError,
  FailedPreconditionError,
  IdempotencyConflictError,
  InvalidRequestError,
  JournalFullError,
  JournalUnavailableError,
  MessageTooLargeError,
  NotFoundError,
  PermissionDeniedError,
  ResourceExhaustedError,
  ServerDrainingError,
  SidecarUnavailableError,
  UnexpectedError,
  type ErrorFacts,
  type Reason,
  type StatusCode,
} from "./errors.js";
export type {
  BatchInfo,
  BatchOpened,
  BatchState,
  Cache,
  Failure,
  ItemFailure,
  Progress,
  Result,
  ResultOrder,
  Success,
  Totals,
  Usage,
  WorkItem,
} from "./model.js";
export type { Receipt } from "./receipt.js";
export type { ResumePolicy } from "./resume.js";
export type { GenerationConfig, RetryPolicy, Strategy, StrategySpec } from "./strategies.js";
