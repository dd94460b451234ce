"""Labels the tickets of examples/triage through a running sidecar: python triage.py [TARGET]."""

import json
import sys
from pathlib import Path

from batch_llm_client import BatchClient, BatchLLMClientError, WorkItem

TICKETS = Path(__file__).parent.parent / "triage" / "tickets.jsonl"


def main(target: str) -> int:
    tickets = [json.loads(line) for line in TICKETS.read_text(encoding="utf-8").splitlines()]
    labels = {ticket["id"]: ticket["label"] for ticket in tickets}
    items = [WorkItem(ticket["id"], f"Ticket: {ticket['text']}\nLabel:") for ticket in tickets]
    right = 0
    try:
        with BatchClient(target) as client, client.process_batch(items, strategy="triage") as batch:
            for result in batch:
                said = result.text.strip() if result.ok else f"{result.error.reason}: {result.error.message}"
                right += said == labels[result.item_id]
                print(f"{result.item_id}  {said}")
    except BatchLLMClientError as error:
        print(error, file=sys.stderr)
        return 2
    totals = batch.totals
    print(f"{totals.total_items} tickets in {totals.elapsed:.1f} s, {right} as expected, {totals.failed} failed,")
    print(f"{totals.cache_hit_rate:.1f} % of the input from the cache")
    return 1 if totals.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051"))
