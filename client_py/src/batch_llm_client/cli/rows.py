"""Rows of a JSONL or CSV file, one at a time, as work items."""

import csv
import json
import os
import stat
import string
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Self, TextIO

from batch_llm_client._channel import DEFAULT_MAX_MESSAGE_BYTES
from batch_llm_client.cli.errors import UsageError
from batch_llm_client.model import WorkItem

STDIN: Final = "-"

# A file whose every line is bad must not bury the first messages.
_MOST_REPORTS: Final = 20
# A little less than a message may weigh, for what is around the item.
_LARGEST_ITEM: Final = DEFAULT_MAX_MESSAGE_BYTES - 1024
_LONGEST_CSV_FIELD: Final = 2**31 - 1


class BadRowError(Exception):
    """A row that cannot be used."""


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """Text and fields in turn."""

    parts: tuple[tuple[str, str | None], ...]

    @classmethod
    def of_field(cls, field: str) -> Self:
        """Make the prompt the field itself."""
        return cls((("", field),))

    @classmethod
    def parse(cls, text: str) -> Self:
        r"""Read `Ticket: {text}`; `\n` means a newline, since shells give none. UsageError: bad braces."""
        try:
            parts = list(string.Formatter().parse(text.replace("\\n", "\n")))
        except ValueError as error:
            raise UsageError(f"--prompt-template: {error}; for a brace itself write {{{{ or }}}}") from None
        for _, field, spec, conversion in parts:
            if field == "" or spec or conversion:
                raise UsageError("--prompt-template: write fields as {name}; for a brace itself write {{ or }}")
        return cls(tuple((literal, field) for literal, field, _, _ in parts))

    def fill(self, row: Mapping[str, Any]) -> str:
        """Make the prompt of a row. BadRowError: it lacks a field."""
        return "".join(
            literal if field is None else literal + _text(row, field, "--prompt-field or --prompt-template")
            for literal, field in self.parts
        )


@dataclass(frozen=True, slots=True)
class RowFormat:
    """What becomes of a row."""

    id_field: str
    prompt: PromptTemplate
    expect_field: str | None = None
    timeout: float | None = None

    def to_item(self, row: Mapping[str, Any]) -> WorkItem:
        """Turn a row into an item; what is expected of it travels as its context. BadRowError: it cannot be."""
        expected = "" if self.expect_field is None else _text(row, self.expect_field, "--expect-field")
        item = WorkItem(
            _item_id(row, self.id_field), self.prompt.fill(row), context=expected.encode(), timeout=self.timeout
        )
        size = item.to_message().ByteSize()
        if size > _LARGEST_ITEM:
            raise BadRowError(f"makes an item of {size:,} bytes, more than {_LARGEST_ITEM:,}")
        return item


class RowSource:
    """Work items from a file; bad rows are reported, counted and passed over.

    `bad` counts them so far; `count` is the number of items, None until the file has been read to its end.
    """

    def __init__(self, file: TextIO, name: str, *, is_csv: bool, row: RowFormat, report: Callable[[str], None]) -> None:
        self._name = name
        self._row = row
        self._report = report
        self._rows = _csv_rows(file, name, row.id_field) if is_csv else enumerate(file, 1)
        self.bad = 0
        self.count: int | None = None

    def __iter__(self) -> Iterator[WorkItem]:
        count = 0
        try:
            for number, row in self._rows:
                if isinstance(row, str) and not row.strip():
                    continue
                try:
                    item = self._row.to_item(_record(row))
                except BadRowError as error:
                    self._note(f"{self._name}:{number}: {error}")
                else:
                    count += 1
                    yield item
        except csv.Error as error:
            raise UsageError(f"{self._name}: {error}") from None
        self.count = count

    def _note(self, message: str) -> None:
        self.bad += 1
        if self.bad <= _MOST_REPORTS:
            self._report(message)
        elif self.bad == _MOST_REPORTS + 1:
            self._report(f"{self._name}: further bad rows are counted, not shown")


@contextmanager
def open_rows(path: str) -> Iterator[TextIO]:
    """Open a file, or stdin for `-`. UsageError: it cannot be opened."""
    # Not sys.stdin itself: a thread that is blocked reading it would break the interpreter's shutdown.
    stdin = path == STDIN
    try:
        # Bytes that are no UTF-8 spoil their row only: they come as surrogates, which _text refuses.
        file = open(  # noqa: SIM115 - closed below, where it can be
            sys.stdin.fileno() if stdin else path,
            encoding="utf-8-sig",
            errors="surrogateescape",
            newline="",
            closefd=not stdin,
        )
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    try:
        yield file
    finally:
        # Closing waits for a read in another thread, which in a pipe or terminal may be for ever.
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()


def _csv_rows(file: TextIO, name: str, id_field: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    csv.field_size_limit(_LONGEST_CSV_FIELD)
    reader = csv.DictReader(file)
    columns = reader.fieldnames or []
    if columns and id_field not in columns:
        raise UsageError(f"{name}:1: no column {id_field!r} (columns: {', '.join(columns)}): name it with --id-field")
    return ((reader.line_num, row) for row in reader)


def _record(row: str | Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(row, str):
        if None in row:
            raise BadRowError("more values than columns")
        return row
    try:
        record = json.loads(row)
    except (ValueError, RecursionError) as error:
        raise BadRowError(f"no JSON: {error}") from None
    if not isinstance(record, dict):
        raise BadRowError("no JSON object")
    return record


def _item_id(row: Mapping[str, Any], field: str) -> str:
    value = row.get(field)
    if isinstance(value, bool | list | dict):
        raise BadRowError(f"field {field!r} must be text or a number to be an id")
    text = _text(row, field, "--id-field")
    if not text.strip():
        raise BadRowError(f"field {field!r} is blank, an id is needed")
    return text


def _text(row: Mapping[str, Any], field: str, option: str) -> str:
    value = row.get(field)
    if value is None:
        lack = "is null" if field in row else f"is missing (fields: {_names(row)})"
        raise BadRowError(f"field {field!r} {lack}: name another with {option}")
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRowError(f"field {field!r} is not valid UTF-8") from None
    return text


def _names(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
