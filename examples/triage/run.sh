#!/usr/bin/env bash
# Labels the tickets with a real model: starts a sidecar, sends the work, shows what came of it, stops the sidecar.
# Usage: run.sh BIN STATE [COMMAND…]
# BIN: where the commands are installed; STATE: where the model and its cache are kept; COMMAND: what sends the work to
# the sidecar at $BATCH_LLM_TARGET (default: `batch-llm run`).
set -euo pipefail

bin=$1
state=$2
shift 2
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
target="unix:$work/sidecar.sock"
sidecar=

stop() {
  if [ -n "$sidecar" ] && kill -TERM "$sidecar" 2>/dev/null; then wait "$sidecar" || true; fi
  rm -rf "$work"
}
trap stop EXIT

"$bin/batch-llm-sidecar" serve --config "$here/sidecar.toml" --listen "$target" --state-dir "$state" \
  2>"$work/sidecar.log" &
sidecar=$!

if ! "$bin/batch-llm" --target "$target" --wait 30 caches create triage; then
  cat "$work/sidecar.log" >&2
  exit 1
fi
status=0
if [ $# -gt 0 ]; then
  BATCH_LLM_TARGET=$target "$@" || status=$?
  exit "$status"
fi
"$bin/batch-llm" --target "$target" run "$here/tickets.jsonl" --strategy triage \
  --prompt-template 'Ticket: {text}\nLabel:' --expect-field label || status=$?
exit "$status"
