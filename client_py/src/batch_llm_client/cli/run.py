"""`batch-llm run`: the rows of a file as one batch."""

import argparse
import io
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, TextIO

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from batch_llm_client.cli.connection import connect
from batch_llm_client.cli.errors import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_SOME_FAILED, UsageError, complaint
from batch_llm_client.cli.rows import STDIN, PromptTemplate, RowFormat, RowSource, open_rows
from batch_llm_client.cli.tally import Tally, percent
from batch_llm_client.errors import BatchLLMClientError
from batch_llm_client.model import Result, Totals

STDOUT: Final = "-"
BAD_ROW: Final = "BAD_ROW"


def run(options: argparse.Namespace) -> int:
    """Run it: 0 all fine, 1 some failed, 2 the stream failed, 130 interrupted. UsageError: it cannot start."""
    console = Console(stderr=True)
    row = _row_format(options)
    tally = Tally(compare=row.expect_field is not None)
    started = time.monotonic()
    with open_rows(options.file) as file:
        source = _source(options, file, row, console)
        with _open_out(options) as out:
            try:
                totals = _process(options, source, tally, out, console)
                code = EXIT_SOME_FAILED if totals.failed or source.bad else 0
            except KeyboardInterrupt:
                totals, code = tally.totals(time.monotonic() - started), EXIT_INTERRUPTED
                _print(console, "interrupted; so far:")
            except BatchLLMClientError as error:
                totals, code = tally.totals(time.monotonic() - started), EXIT_ERROR
                _print(console, complaint(error))
    if not options.quiet and (code != EXIT_ERROR or tally.done):
        console.print(_summary(totals, source.bad))
    if tally.compare and (code != EXIT_ERROR or tally.done):
        right = f"{tally.right} of {tally.done} ({percent(tally.right, tally.done):.1f} %)"
        _print(console, f"expected {row.expect_field} right: {right}")
    return code


def _process(options: argparse.Namespace, source: RowSource, tally: Tally, out: TextIO, console: Console) -> Totals:
    with (
        connect(options) as client,
        client.process_batch(
            source,
            strategy=options.strategy,
            batch_id=options.batch_id,
            max_concurrency=options.max_concurrency,
            result_order=options.order,
        ) as batch,
        _progress(options, source, tally, console),
    ):
        for result in batch:
            tally.add(result)
            out.write(json.dumps(to_json(result), ensure_ascii=False) + "\n")
        return batch.totals


def to_json(result: Result) -> dict[str, Any]:
    """Give the fields of a result's line; `error` only when the item failed."""
    line: dict[str, Any] = {
        "item_id": result.item_id,
        "ok": result.ok,
        "text": result.text,
        "finish_reason": result.finish_reason,
    }
    if (error := result.error) is not None:
        line["error"] = {"reason": error.reason, "message": error.message, "retryable": error.retryable}
    return line | {
        "usage": asdict(result.usage),
        "attempts": result.attempts,
        "elapsed_seconds": round(result.elapsed, 6),
        "model": result.model,
    }


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


@contextmanager
def _open_out(options: argparse.Namespace) -> Iterator[TextIO]:
    # Line by line: whoever reads along, or comes after a crash, finds whole results.
    if options.out == STDOUT:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8", line_buffering=True)
        yield sys.stdout
        return
    path = Path(options.out)
    if options.file != STDIN and path.exists() and os.path.samefile(options.file, path):
        raise UsageError(f"--out {path} is the input itself: choose another file")
    try:
        out = path.open("w", encoding="utf-8", buffering=1)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
    with out:
        yield out


def _progress(
    options: argparse.Namespace, source: RowSource, tally: Tally, console: Console
) -> AbstractContextManager[object]:
    results_on_screen = options.out == STDOUT and sys.stdout.isatty()
    if options.quiet or results_on_screen or not console.is_terminal:
        return nullcontext()
    started = time.monotonic()

    def bar() -> Table:
        rate = tally.done / max(time.monotonic() - started, 1e-9)
        line = Table.grid(padding=(0, 2))
        line.add_row(
            ProgressBar(total=source.count, completed=tally.done, pulse=source.count is None, width=30),
            f"{tally.done:,} done",
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


def _print(console: Console, message: str) -> None:
    console.print(message, markup=False, highlight=False, soft_wrap=True)
