#!/usr/bin/env bash
# Labels the tickets with a real model: starts a sidecar, sends the work, shows what came of it, stops the sidecar.
# Usage: run.sh BIN STATE  (BIN: where the commands are installed; STATE: where the model and its cache are kept)
set -euo pipefail

bin=$1
state=$2
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
"$bin/batch-llm" --target "$target" run "$here/tickets.jsonl" --strategy triage \
  --prompt-template 'Ticket: {text}\nLabel:' --expect-field label || status=$?
exit "$status"
