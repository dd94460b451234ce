"""`batch-llm run`: the rows of a file as one batch."""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, TextIO

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from batch_llm_client.batch import Batch
from batch_llm_client.cli.connection import connect
from batch_llm_client.cli.errors import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_SOME_FAILED, UsageError, complaint
from batch_llm_client.cli.interrupt import cancelled_by_interrupt
from batch_llm_client.cli.output import STDOUT, Output, OutputError, open_output
from batch_llm_client.cli.rows import STDIN, PromptTemplate, RowFormat, RowSource, open_rows
from batch_llm_client.cli.tally import Tally, percent
from batch_llm_client.client import BatchClient
from batch_llm_client.errors import BatchLLMClientError, BatchLostError, InvalidRequestError
from batch_llm_client.model import Result, Totals
from batch_llm_client.receipt import Receipt

BAD_ROW: Final = "BAD_ROW"


def run(options: argparse.Namespace) -> int:
    """Run it: 0 all fine, 1 some failed, 2 the stream failed, 130 interrupted. UsageError: it cannot start."""
    _check(options)
    console = Console(stderr=True)
    row = _row_format(options)
    tally = Tally(compare=row.expect_field is not None)
    hopeless = False
    started = time.monotonic()
    with open_rows(options.file) as file:
        source = _source(options, file, row, console)
        if options.detach:
            return _hand_over(options, source, console)
        try:
            with open_output(options) as out:
                totals = _process(options, source, tally, out, console)
            code = EXIT_SOME_FAILED if totals.failed or source.bad else 0
        except KeyboardInterrupt:
            totals, code = tally.totals(time.monotonic() - started), EXIT_INTERRUPTED
            _print(console, "interrupted; so far:")
        except (BatchLLMClientError, OutputError) as error:
            totals, code = tally.totals(time.monotonic() - started), EXIT_ERROR
            # The same command would be refused again, such as rows that are new to a batch that takes no more.
            hopeless = isinstance(error, InvalidRequestError | BatchLostError)
            _print(console, complaint(error))
    if not options.quiet and (code != EXIT_ERROR or tally.done):
        console.print(_summary(totals, source.bad))
        _print_receipt(totals.receipt, console)
    if tally.compare and (code != EXIT_ERROR or tally.done):
        right = f"{tally.right} of {tally.done} ({percent(tally.right, tally.done):.1f} %)"
        _print(console, f"expected {row.expect_field} right: {right}{' in this run' if tally.before else ''}")
    if code in {EXIT_INTERRUPTED, EXIT_ERROR} and tally.batch_id and not hopeless:
        out_file = "FILE" if options.out == STDOUT else shlex.quote(options.out)
        name = shlex.quote(tally.batch_id)
        _print(console, f"to go on: the same command with --batch-id {name} --resume --out {out_file}")
    return code


def _check(options: argparse.Namespace) -> None:
    if options.resume and (not options.batch_id or options.out == STDOUT):
        raise UsageError("--resume needs --batch-id, and --out with the file of the run to go on with")
    if options.detach and (options.resume or options.out != STDOUT or options.expect_field):
        raise UsageError(
            "--detach leaves before results come: leave out --resume, --out and --expect-field; "
            "run it again with --batch-id, --resume and --out to get them"
        )


def _process(options: argparse.Namespace, source: RowSource, tally: Tally, out: Output, console: Console) -> Totals:
    tally.before = out.after
    with (
        connect(options) as client,
        _batch(options, client, source, resume_after_sequence=out.after) as batch,
        _progress(options, source, tally, console),
    ):
        tally.batch_id = batch.batch_id
        out.begin()
        for result in batch:
            tally.add(result)
            out.write(json.dumps(to_json(result), ensure_ascii=False))
        return batch.totals


def _hand_over(options: argparse.Namespace, source: RowSource, console: Console) -> int:
    with connect(options) as client, _batch(options, client, source, detach=True) as batch:
        held = batch.leave()
        print(batch.batch_id)
    if not options.quiet:
        _print(console, f"the sidecar holds {held:,} items and goes on; {source.bad:,} bad rows were passed over")
        name = shlex.quote(batch.batch_id)
        _print(console, f"for the results: the same command with --batch-id {name} --resume --out FILE")
    return EXIT_SOME_FAILED if source.bad else 0


@contextmanager
def _batch(options: argparse.Namespace, client: BatchClient, source: RowSource, **opening: Any) -> Iterator[Batch]:
    batch = client.process_batch(
        source,
        strategy=options.strategy,
        batch_id=options.batch_id,
        max_concurrency=options.max_concurrency,
        result_order=options.order,
        **opening,
    )
    with cancelled_by_interrupt(batch.cancel), batch:
        yield batch


def to_json(result: Result) -> dict[str, Any]:
    """Give the fields of a result's line.

    `error` only when the item failed, `maybe_billed` only when it is true, the cost only where there are prices.
    """
    line: dict[str, Any] = {
        "item_id": result.item_id,
        "sequence": result.sequence,
        "ok": result.ok,
        "text": result.text,
        "finish_reason": result.finish_reason,
    }
    if (error := result.error) is not None:
        line["error"] = {"reason": error.reason, "message": error.message, "retryable": error.retryable}
    line |= {
        "usage": asdict(result.usage),
        "attempts": result.attempts,
        "elapsed_seconds": round(result.elapsed, 6),
        "model": result.model,
    }
    if result.maybe_billed:
        line["maybe_billed"] = True
    receipt = result.receipt
    if receipt.price_date is not None:
        line["cost_nano_usd"] = receipt.total_nano_usd
    return line


def _row_format(options: argparse.Namespace) -> RowFormat:
    if options.prompt_template is None:
        prompt = PromptTemplate.of_field(options.prompt_field)
    else:
        prompt = PromptTemplate.parse(options.prompt_template)
    return RowFormat(options.id_field, prompt, options.expect_field, options.timeout)


def _source(options: argparse.Namespace, file: TextIO, row: RowFormat, console: Console) -> RowSource:
    is_csv = (options.format or Path(options.file).suffix.lower().removeprefix(".")) == "csv"
    name = "stdin" if options.file == STDIN else options.file
    return RowSource(file, name, is_csv=is_csv, row=row, report=lambda message: _print(console, message))


def _progress(
    options: argparse.Namespace, source: RowSource, tally: Tally, console: Console
) -> AbstractContextManager[object]:
    results_on_screen = options.out == STDOUT and sys.stdout.isatty()
    if options.quiet or results_on_screen or not console.is_terminal:
        return nullcontext()
    started = time.monotonic()

    def bar() -> Table:
        done = tally.before + tally.done
        rate = tally.done / max(time.monotonic() - started, 1e-9)
        line = Table.grid(padding=(0, 2))
        line.add_row(
            ProgressBar(total=source.count, completed=done, pulse=source.count is None, width=30),
            f"{done:,} done",
            f"{rate:,.0f} items/s",
            f"cache hit rate {tally.cache_hit_rate:.1f} %",
        )
        return line

    # The bar reads the tally when it is drawn: results pay nothing for it.
    return Live(get_renderable=bar, console=console, refresh_per_second=8, transient=True)


def _summary(totals: Totals, bad_rows: int) -> Table:
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("succeeded", f"{totals.succeeded:,}")
    table.add_row("failed", f"{totals.failed + bad_rows:,}")
    failures = dict(totals.failures_by_reason) | ({BAD_ROW: bad_rows} if bad_rows else {})
    for reason, count in sorted(failures.items(), key=lambda entry: -entry[1]):
        table.add_row(f"  {reason}", f"{count:,}")
    table.add_row("input tokens", f"{totals.total_input_tokens:,}")
    table.add_row("cached input tokens", f"{totals.total_cached_tokens:,}")
    table.add_row("effective input tokens", f"{totals.effective_input_tokens:,}")
    table.add_row("output tokens", f"{totals.total_output_tokens:,}")
    table.add_row("cache hit rate", f"{totals.cache_hit_rate:.1f} %")
    table.add_row("time", f"{totals.elapsed:.1f} s")
    return table


def _print_receipt(receipt: Receipt | None, console: Console) -> None:
    """Print what it has cost; nothing where no provider has prices."""
    if receipt is None or receipt.price_date is None:
        return
    total, uncached = receipt.total_nano_usd, receipt.uncached_nano_usd
    if total is None or uncached is None:
        storage = ", and storage" if receipt.unpriced_token_seconds else ""
        _print(console, f"cost unknown: {receipt.unpriced_tokens:,} tokens{storage} without a known price")
        return
    table = Table()
    table.add_column(f"prices of {receipt.price_date}")
    table.add_column("tokens", justify="right")
    table.add_column("USD", justify="right")
    for name, tokens, cost in (
        ("fresh input", receipt.fresh_input_tokens, receipt.fresh_input_nano_usd),
        ("cached input", receipt.cached_input_tokens, receipt.cached_input_nano_usd),
        ("output", receipt.output_tokens, receipt.output_nano_usd),
        ("thinking", receipt.thinking_tokens, receipt.thinking_nano_usd),
        ("failed attempts", receipt.failed_attempt_tokens, receipt.failed_attempt_nano_usd),
        ("cache creation", receipt.cache_creation_tokens, receipt.cache_creation_nano_usd),
    ):
        if tokens:
            table.add_row(name, f"{tokens:,}", dollars(cost))
    if receipt.cache_storage_token_seconds:
        hours = f"{receipt.cache_storage_token_seconds / 3600:,.0f}"
        table.add_row("cache storage (token-hours)", hours, dollars(receipt.cache_storage_nano_usd))
    table.add_row("total", "", dollars(total))
    table.add_row("without a cache", "", dollars(uncached))
    if receipt.storage_until_expiry_nano_usd:
        table.add_row("to come until the cache expires", "", dollars(receipt.storage_until_expiry_nano_usd))
    console.print(table)
    for advice in receipt.advice:
        _print(console, advice)


def dollars(nano_usd: int) -> str:
    """Write an amount with the millionth of a dollar as its last digit."""
    return f"{Decimal(nano_usd).scaleb(-9):,.6f}"


def _print(console: Console, message: str) -> None:
    console.print(message, markup=False, highlight=False, soft_wrap=True)
