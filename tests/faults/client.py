"""A client process: takes a batch up after the last result in its file, and writes each result as it comes.

python -m tests.faults.client TARGET BATCH_ID ITEMS OUT OPENING
"""

from __future__ import annotations

import base64
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from batch_llm_client import BatchClient, ResumePolicy, WorkItem

# However often the sidecar is killed: the tests' own deadline ends it.
_POLICY = ResumePolicy(max_tries=10_000, max_away_seconds=100.0, max_asked_seconds=100.0, max_backoff_seconds=0.1)
_PAUSE_SECONDS = 0.005


def main(target: str, batch_id: str, items: str, out: str, opening: str) -> None:
    with (
        open(out, "a+b") as file,
        BatchClient(target, frame_items=16, unconfirmed_items=64, resume_policy=_POLICY) as client,
    ):
        file.seek(0)
        whole = [line for line in file if line.endswith(b"\n")]
        file.truncate(sum(map(len, whole)))
        client.wait_until_ready(60)
        asked = {"batch_id": batch_id, "resume_after_sequence": len(whole), **json.loads(opening)}
        with client.process_batch(_items(Path(items)), **asked) as batch:
            for result in batch:
                message = result.message
                line = {
                    "sequence": result.sequence,
                    "item_id": result.item_id,
                    "text": result.text,
                    "maybe_billed": result.maybe_billed,
                }
                message.replayed = False
                line["wire"] = base64.b64encode(message.SerializeToString(deterministic=True)).decode()
                file.write(json.dumps(line).encode() + b"\n")
                file.flush()


def _items(path: Path) -> Iterator[WorkItem]:
    for number, line in enumerate(path.read_text().splitlines()):
        if number % 16 == 0:
            time.sleep(_PAUSE_SECONDS)  # else all items would be sent before anything can go wrong
        row = json.loads(line)
        yield WorkItem(row["id"], row["prompt"])


if __name__ == "__main__":
    main(*sys.argv[1:])
