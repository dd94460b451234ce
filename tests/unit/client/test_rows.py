import os
from pathlib import Path

import pytest

from batch_llm_client import WorkItem
from batch_llm_client.cli.errors import UsageError
from batch_llm_client.cli.rows import PromptTemplate, RowFormat, RowSource, open_rows

PLAIN = RowFormat("id", PromptTemplate.of_field("prompt"))


class Reading:
    def __init__(self, path: Path, row: RowFormat = PLAIN) -> None:
        self.reports: list[str] = []
        with open_rows(str(path)) as file:
            source = RowSource(file, "F", is_csv=path.suffix == ".csv", row=row, report=self.reports.append)
            assert source.count is None
            self.items = list(source)
        self.bad = source.bad
        assert source.count == len(self.items)


def write(tmp_path: Path, name: str, content: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_jsonl(tmp_path: Path) -> None:
    content = '\ufeff{"id": 7, "prompt": "a\\nb"}\r\n\n  \n{"id": "x", "prompt": {"n": 1}}\n{"id": 1.5, "prompt": "ü"}'
    reading = Reading(write(tmp_path, "f.jsonl", content))
    assert reading.items == [WorkItem("7", "a\nb"), WorkItem("x", '{"n": 1}'), WorkItem("1.5", "ü")]
    assert reading.reports == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "F:2: no JSON: "),
        (b"[" * 100_000, "F:2: no JSON: "),
        (b"[1]", "F:2: no JSON object"),
        (
            b'{"key": 1, "prompt": "p"}',
            "F:2: field 'id' is missing (fields: key, prompt): name another with --id",
        ),
        (b'{"id": 1, "text": "p"}', "F:2: field 'prompt' is missing (fields: id, text): name another with --prompt"),
        (b'{"id": 1, "prompt": null}', "F:2: field 'prompt' is null"),
        (b'{"id": " ", "prompt": "p"}', "F:2: field 'id' is blank"),
        (b'{"id": true, "prompt": "p"}', "F:2: field 'id' must be text or a number"),
        (b'{"id": 1, "prompt": "\\ud800"}', "F:2: field 'prompt' is not valid UTF-8"),
        (b'{"id": 1, "prompt": "\xff"}', "F:2: field 'prompt' is not valid UTF-8"),
    ],
)
def test_a_bad_line_spoils_itself_only(tmp_path: Path, line: bytes, message: str) -> None:
    good = b'{"id": 1, "prompt": "p"}\n'
    reading = Reading(write(tmp_path, "f.jsonl", good + line + b"\n" + good))
    assert len(reading.items) == 2
    assert reading.bad == 1
    assert len(reading.reports) == 1
    assert reading.reports[0].startswith(message)


def test_many_bad_lines_are_counted(tmp_path: Path) -> None:
    reading = Reading(write(tmp_path, "f.jsonl", "x\n" * 100))
    assert reading.bad == 100
    assert len(reading.reports) == 21
    assert reading.reports[-1] == "F: further bad rows are counted, not shown"


def test_csv(tmp_path: Path) -> None:
    long = "x" * 200_000
    content = f'id,prompt,more\n1,"a\nb",z\n2,{long},z\n3,p,z,too much\n4\n'
    reading = Reading(write(tmp_path, "f.csv", content))
    assert reading.items == [WorkItem("1", "a\nb"), WorkItem("2", long)]
    assert reading.reports == [
        "F:5: more values than columns",
        "F:6: field 'prompt' is null: name another with --prompt-field or --prompt-template",
    ]


def test_csv_without_the_id_column(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"F:1: no column 'id' \(columns: key, prompt\): name it with --id-field"):
        Reading(write(tmp_path, "f.csv", "key,prompt\n1,p\n"))


def test_templates(tmp_path: Path) -> None:
    template = PromptTemplate.parse(r"Ticket: {text}\n{{n}}={n}")
    assert template.fill({"text": "{n}", "n": 3}) == "Ticket: {n}\n{n}=3"
    row = RowFormat("key", template, expect_field="label", timeout=5)
    reading = Reading(write(tmp_path, "f.jsonl", '{"key": "1", "text": "t", "n": 2, "label": "ä"}\n{"key": "2"}'), row)
    assert reading.items == [WorkItem("1", "Ticket: t\n{n}=2", context="ä".encode(), timeout=5)]
    assert reading.reports[0].startswith("F:2: field 'label' is missing")


@pytest.mark.parametrize("text", ["{", "}", "{}", "{a!r}", "{a:>5}"])
def test_bad_templates(text: str) -> None:
    with pytest.raises(UsageError, match="--prompt-template"):
        PromptTemplate.parse(text)


def test_rows_are_read_one_at_a_time() -> None:
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, encoding="utf-8") as file, os.fdopen(write_end, "w", buffering=1) as pipe:
        source = iter(RowSource(file, "stdin", is_csv=False, row=PLAIN, report=print))
        for number in range(3):
            print(f'{{"id": {number}, "prompt": "p"}}', file=pipe)
            assert next(source).item_id == str(number)


def test_stdin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with write(tmp_path, "f", '{"id": 1, "prompt": "p"}').open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        with open_rows("-") as file:
            assert list(RowSource(file, "stdin", is_csv=False, row=PLAIN, report=print)) == [WorkItem("1", "p")]
        assert not stdin.closed


def test_a_missing_file(tmp_path: Path) -> None:
    with (
        pytest.raises(UsageError, match=r"cannot read .*none\.jsonl: No such file"),
        open_rows(str(tmp_path / "none.jsonl")),
    ):
        pass
