import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path

import grpc
import pytest

from batch_llm_client.cli import main
from batch_llm_client.cli.tally import bare

from .conftest import Fault

WAIT = 60


@pytest.fixture
def tickets(tmp_path: Path) -> Path:
    path = tmp_path / "tickets.jsonl"
    rows = [{"id": 1, "text": "billing", "label": "billing"}, {"id": 2, "text": '"delivery"', "label": "delivery"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"id": 3, "text": "x", "label": "y"}]))
    return path


def command(sidecar, *arguments: object) -> list[str]:
    return ["--target", sidecar.target, *map(str, arguments)]


def spawn(arguments: list[str], **pipes: int) -> "subprocess.Popen[str]":
    code = "from batch_llm_client.cli import run_command; run_command()"
    return subprocess.Popen([sys.executable, "-c", code, *arguments], text=True, **pipes)


def test_run(sidecar, tickets: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "results.jsonl"
    options = ["--strategy", "s", "--prompt-field", "text", "--expect-field", "label", "--out", out, "--order"]
    more = ["submission", "--batch-id", "b", "--max-concurrency", 4, "--timeout", 9]
    assert main(command(sidecar, "run", tickets, *options, *more)) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["item_id"] for line in lines] == ["1", "2", "3"]
    assert lines[0] == {
        "item_id": "1",
        "sequence": 1,
        "ok": True,
        "text": "billing",
        "finish_reason": "stop",
        "usage": {
            "input_tokens": 10,
            "output_tokens": 2,
            "total_tokens": 12,
            "cached_input_tokens": 5,
            "thinking_tokens": 0,
            "effective_input_tokens": 6,
        },
        "attempts": 1,
        "elapsed_seconds": 0.25,
        "model": "m",
    }
    captured = capsys.readouterr()
    assert captured.out == ""
    table = [line.replace("│", " ").split() for line in captured.err.splitlines()]
    for row in (["succeeded", "3"], ["failed", "0"], ["input", "tokens", "30"], ["cached", "input", "tokens", "15"]):
        assert row in table
    for row in (
        ["effective", "input", "tokens", "18"],
        ["output", "tokens", "6"],
        ["cache", "hit", "rate", "50.0", "%"],
    ):
        assert row in table
    assert ["time", "2.5", "s"] in table
    assert "expected label right: 2 of 3 (66.7 %)" in captured.err
    assert (sidecar.opens[0].strategy, sidecar.opens[0].batch_id, sidecar.opens[0].max_concurrency) == ("s", "b", 4)
    assert sidecar.frames[0].items[0].timeout.seconds == 9


def test_run_with_failures(sidecar, tmp_path: Path, capsys) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("id,prompt\n1,fail\n2,fine\n ,blank\n")
    assert main(command(sidecar, "run", path)) == 1
    captured = capsys.readouterr()
    failed, fine = (json.loads(line) for line in captured.out.splitlines())
    assert failed["error"] == {"reason": "RATE_LIMITED", "message": "slow down", "retryable": True}
    assert (failed["ok"], failed["text"]) == (False, None)
    assert "error" not in fine
    assert f"{path}:4: field 'id' is blank" in captured.err
    table = [line.replace("│", " ").split() for line in captured.err.splitlines()]
    for row in (["succeeded", "1"], ["failed", "2"], ["RATE_LIMITED", "1"], ["BAD_ROW", "1"]):
        assert row in table


def test_run_quietly_from_stdin(sidecar, tickets: Path, monkeypatch, capsys) -> None:
    with tickets.open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert main(["run", "-", "--target", sidecar.target, "--quiet", "--prompt-template", r"T: {text}\n"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out.splitlines()[0])["text"] == "T: billing\n"
    assert captured.err == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "none.jsonl"], "cannot read none.jsonl"),
        (["run", "FILE", "--out", "FILE"], "is the input itself"),
        (["run", "FILE", "--out", "/none/x"], "cannot write /none/x"),
        (["run", "FILE", "--prompt-template", "{"], "--prompt-template"),
        (["strategies", "register", "none.toml"], "cannot read none.toml"),
        (["strategies", "register", "FILE"], "give a .toml or .json file"),
    ],
)
def test_usage_errors(sidecar, tickets: Path, capsys, arguments: list[str], message: str) -> None:
    before = tickets.read_text()
    assert main(command(sidecar, *(str(tickets) if part == "FILE" else part for part in arguments))) == 2
    error = capsys.readouterr().err
    assert error.startswith("batch-llm: ")
    assert message in error
    assert error.count("\n") == 1
    assert tickets.read_text() == before


def test_nobody_listens(tickets: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("BATCH_LLM_TARGET", f"unix:{tmp_path}/none.sock")
    for arguments in (["run", str(tickets), "--prompt-field", "text"], ["strategies"], ["caches", "list"]):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"batch-llm: no batch-llm sidecar answers at unix:{tmp_path}/none.sock")
        assert error.count("\n") == 1


def test_a_refusal(sidecar, tickets: Path, capsys) -> None:
    sidecar.refusal = (grpc.StatusCode.NOT_FOUND, "STRATEGY_NOT_FOUND", {}, None)
    assert main(command(sidecar, "run", tickets, "--strategy", "x", "--prompt-field", "text")) == 2
    assert capsys.readouterr().err == "batch-llm: no, because\n"


def test_interrupt_while_it_starts(tickets: Path, monkeypatch, capsys) -> None:
    def interrupted(_name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("importlib.import_module", interrupted)
    assert main(["run", str(tickets)]) == 130
    assert capsys.readouterr() == ("", "")


def test_interrupt_prints_what_there_is(sidecar, tickets: Path) -> None:
    read_end, write_end = os.pipe()  # a stdin that stays open
    os.write(write_end, tickets.read_bytes())
    arguments = command(sidecar, "run", "-", "--prompt-field", "text")
    with spawn(arguments, stdin=read_end, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(3):
            assert json.loads(process.stdout.readline())["ok"]
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=WAIT)
    os.close(read_end)
    os.close(write_end)
    assert process.returncode == 130
    assert "interrupted; so far:" in errors
    assert ["succeeded", "3"] in [line.replace("│", " ").split() for line in errors.splitlines()]
    assert "Traceback" not in errors
    assert "Fatal" not in errors
    assert sidecar.stream_ended.wait(WAIT)


def test_a_reader_that_goes_away(sidecar, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"id": {number}, "prompt": "{"x" * 1000}"}}\n' for number in range(1000)))
    with spawn(command(sidecar, "run", path), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(WAIT) == 141
    assert errors == ""


def test_strategies(sidecar, tmp_path: Path, capsys) -> None:
    one = tmp_path / "one.json"
    one.write_text('{"name": "solo", "provider": "p", "retry": {"max_attempts": 2}}')
    two = tmp_path / "two.toml"
    two.write_text('[strategies.a]\nprovider = "p"\n[strategies.b]\nprovider = "p"\ncached_content = ["x"]\n')
    assert main(command(sidecar, "strategies", "register", one)) == 0
    assert main(command(sidecar, "strategies", "register", two)) == 0
    assert main(command(sidecar, "strategies", "register", two)) == 0
    assert capsys.readouterr().out.splitlines() == [
        "solo: registered",
        "a: registered",
        "b: registered",
        "a: was registered with this spec already",
        "b: was registered with this spec already",
    ]
    assert main(command(sidecar, "strategies", "register", two, "--json")) == 0
    assert [answer["registered"] for answer in json.loads(capsys.readouterr().out)] == [False, False]
    assert main(command(sidecar, "strategies")) == 0
    assert "solo" in capsys.readouterr().out
    for arguments in (["strategies", "--json"], ["strategies", "list", "--json"], ["strategies", "--json", "list"]):
        assert main(command(sidecar, *arguments)) == 0
        assert [strategy["spec"]["name"] for strategy in json.loads(capsys.readouterr().out)] == ["solo", "a", "b"]
    assert main(command(sidecar, "strategies", "show", "solo")) == 0
    assert json.loads(capsys.readouterr().out)["spec"]["retry"]["max_attempts"] == 2
    assert main(command(sidecar, "strategies", "unregister", "solo")) == 0
    assert main(command(sidecar, "strategies", "unregister", "a", "--json")) == 0
    assert list(sidecar.strategies) == ["b"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.toml", "name = ", "x.toml: Invalid value"),
        ("x.json", "[]", "x.json: a strategy is a table"),
        ("x.json", '{"strategies": {"a": 1}}', "x.json: a strategy is a table"),
        ("x.json", '{"modle": "m"}', "x.json: unknown key 'modle'; known: name"),
    ],
)
def test_bad_strategy_files(sidecar, tmp_path: Path, capsys, name: str, content: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    assert main(command(sidecar, "strategies", "register", path)) == 2
    assert message in capsys.readouterr().err


def test_caches(sidecar, capsys) -> None:
    assert main(command(sidecar, "caches")) == 0
    table = capsys.readouterr().out
    assert "triage" in table
    assert "1,234" in table
    assert "active" in table
    assert main(command(sidecar, "caches", "create", "s", "--ttl", "60")) == 0
    assert capsys.readouterr().out == "s: cache reused as it is: 1,234 tokens until 2026-01-02 03:04:05 UTC, caches/1\n"
    assert sidecar.requests[-1].ttl.seconds == 60
    assert main(command(sidecar, "caches", "renew", "s", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["recreated"] is True
    assert main(command(sidecar, "caches", "delete", "s")) == 0
    assert main(command(sidecar, "caches", "delete", "s", "--json")) == 0
    assert capsys.readouterr().out == 's: deleted\n{\n  "deleted": true\n}\n'
    assert main(command(sidecar, "caches", "list", "--json")) == 0
    assert json.loads(capsys.readouterr().out)[0]["state"] == "CACHE_STATE_ACTIVE"


def test_without_rich(sidecar, capsys, monkeypatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("rich", "batch_llm_client.cli.admin"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    assert main(["strategies"]) == 2
    assert "pip install 'batch-llm-client[cli]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["strategies", "register", "--help"], ["batches", "cancel", "--help"]]
)
def test_help(capsys, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 0
    assert "--target" in capsys.readouterr().out


def test_version(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.startswith("batch-llm 0.")


@pytest.mark.parametrize("arguments", [[], ["run"], ["nonsense"], ["run", "x", "--order", "sideways"]])
def test_bad_arguments(capsys, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [(" a \n", "a"), ('"a"', "a"), ('"\\u00fc"', "ü"), ("'a'", "a"), ('"a" or "b"', 'a" or "b'), ('"', '"'), ("", "")],
)
def test_bare_text(text: str, expected: str) -> None:
    assert bare(text) == expected


# Going on, leaving


def going_on(sidecar, rows: Path, out: Path, *more: object) -> list[str]:
    return command(sidecar, "run", rows, "--batch-id", "b", "--resume", "--out", out, "--quiet", *more)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"id": number, "prompt": f"p{number}"}) + "\n" for number in range(10)))
    return path


def sequences(path: Path) -> list[int]:
    return [json.loads(line)["sequence"] for line in path.read_text().splitlines()]


@pytest.mark.parametrize("torn", ["", '{"item_id": "4", "seq', '{"item_id": "4", "sequence": 5}'])
def test_a_run_goes_on_where_the_one_before_was_killed(sidecar, rows: Path, tmp_path: Path, torn: str) -> None:
    out = tmp_path / "out.jsonl"
    assert main(going_on(sidecar, rows, out)) == 0  # nothing there yet
    whole = out.read_text()
    lines = whole.splitlines(keepends=True)
    for kept in (4, 0, 10):
        out.write_text("".join(lines[:kept]) + torn)
        assert main(going_on(sidecar, rows, out)) == 0
        assert sidecar.opens[-1].resume_after_sequence == kept
        assert out.read_text() == whole
    assert sequences(out) == list(range(1, 11))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"sequence": 1}\n{"sequence": 3}\n', ":2: sequence 3 after 1"),
        ('{"sequence": 1}\n{"sequence": 1}\n', ":2: sequence 1 after 1"),
        ('{"item_id": "1"}\n', ":1: no result with a sequence"),
        ("hello\n", ":1: no result with a sequence"),
        ("[]\n", ":1: no result with a sequence"),
    ],
)
def test_a_file_of_something_else_is_not_gone_on_with(
    sidecar, rows: Path, tmp_path: Path, capsys, content: str, message: str
) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text(content)
    assert main(going_on(sidecar, rows, out)) == 2
    assert f"{out}{message}" in capsys.readouterr().err
    assert out.read_text() == content
    assert sidecar.opens == []


def test_a_file_that_another_run_is_writing_is_left_alone(sidecar, rows: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text('{"sequence": 1}\n{"seque')
    sidecar.refusals = [Fault("", code=grpc.StatusCode.ABORTED, reason="BATCH_IN_USE")]
    assert main(going_on(sidecar, rows, out)) == 2
    assert out.read_text() == '{"sequence": 1}\n{"seque'


def test_results_of_before_stay_until_there_is_a_batch(sidecar, rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    options = [rows, "--batch-id", "b", "--out", out, "--quiet"]
    assert main(command(sidecar, "run", *options)) == 0
    before = out.read_text()
    sidecar.refusals = [Fault("", code=grpc.StatusCode.ABORTED, reason="BATCH_IN_USE")]
    assert main(command(sidecar, "run", *options)) == 2
    assert out.read_text() == before
    assert main(command(sidecar, "run", *options)) == 0
    assert sequences(out) == list(range(1, 11))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk(sidecar, rows: Path, capsys) -> None:
    assert main(command(sidecar, "run", rows, "--batch-id", "b", "--out", "/dev/full")) == 2
    told = capsys.readouterr().err
    assert "batch-llm: cannot write /dev/full: No space left on device" in told
    assert "to go on: the same command with --batch-id b --resume --out /dev/full" in told


def test_a_file_that_cannot_be_cut_off(sidecar, rows: Path) -> None:
    assert main(going_on(sidecar, rows, Path(os.devnull))) == 0


def test_a_killed_run(sidecar, rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    wait = threading.Event()
    half = threading.Event()

    def script(requests, context):
        for frame in sidecar.echo(requests, context):
            yield frame
            if frame.HasField("results") and frame.results.results[-1].sequence == 5:
                half.set()
                wait.wait(WAIT)

    sidecar.script = script
    with spawn(going_on(sidecar, rows, out), stderr=subprocess.PIPE) as process:
        assert half.wait(WAIT)
        process.kill()
    wait.set()
    sidecar.script = None
    assert main(going_on(sidecar, rows, out)) == 0
    assert sequences(out) == list(range(1, 11))
    assert len(sidecar.journal["b"].results) == 10


def test_what_to_do_to_go_on(sidecar, rows: Path, tmp_path: Path, capsys) -> None:
    sidecar.faults = [Fault("result", 4, grpc.StatusCode.NOT_FOUND)]
    out = tmp_path / "out.jsonl"
    assert main(command(sidecar, "run", rows, "--out", out)) == 2
    (batch_id,) = sidecar.journal
    told = capsys.readouterr().err
    assert f"to go on: the same command with --batch-id {batch_id} --resume --out {out}" in " ".join(told.split())
    assert main(command(sidecar, "run", rows, "--out", out, "--batch-id", batch_id, "--resume")) == 0
    assert sequences(out) == list(range(1, 11))


@pytest.mark.parametrize(
    ("code", "told"),
    [(grpc.StatusCode.INVALID_ARGUMENT, False), (grpc.StatusCode.INTERNAL, True)],
)
def test_what_the_same_command_would_meet_again_is_no_way_to_go_on(
    sidecar, rows: Path, tmp_path: Path, capsys, code: grpc.StatusCode, told: bool
) -> None:
    sidecar.faults = [Fault("result", 4, code, reason="INVALID_FIELD")]
    assert main(command(sidecar, "run", rows, "--out", tmp_path / "out.jsonl")) == 2
    assert ("to go on: the same command" in capsys.readouterr().err) is told


def test_what_to_do_to_go_on_can_be_pasted_into_a_shell(sidecar, rows: Path, tmp_path: Path, capsys) -> None:
    sidecar.faults = [Fault("result", 4, grpc.StatusCode.NOT_FOUND)]
    out = tmp_path / "my results.jsonl"
    assert main(command(sidecar, "run", rows, "--out", out, "--batch-id", "it's night")) == 2
    (advice,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("to go on: ")]
    assert shlex.split(advice.partition(" with ")[2]) == ["--batch-id", "it's night", "--resume", "--out", str(out)]
    assert main(command(sidecar, "run", rows, "--batch-id", "its night", "--detach")) == 0
    assert "--batch-id 'its night' --resume" in capsys.readouterr().err


def test_what_is_right_is_counted_in_this_run(sidecar, tickets: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out.jsonl"
    options = ["--prompt-field", "text", "--expect-field", "label"]
    assert main(going_on(sidecar, tickets, out, *options)) == 0
    out.write_text(out.read_text().splitlines()[0] + "\n")
    assert main(going_on(sidecar, tickets, out, *options)) == 0
    assert "expected label right: 1 of 2 (50.0 %) in this run" in capsys.readouterr().err


def test_detach(sidecar, rows: Path, tmp_path: Path, capsys) -> None:
    assert main(command(sidecar, "run", rows, "--detach")) == 0
    captured = capsys.readouterr()
    (batch_id,) = sidecar.journal
    assert captured.out == f"{batch_id}\n"
    assert "the sidecar holds 10 items and goes on" in captured.err
    assert sidecar.journal[batch_id].opening.detach
    assert sidecar.journal[batch_id].sealed
    out = tmp_path / "out.jsonl"
    assert main(command(sidecar, "run", rows, "--batch-id", batch_id, "--resume", "--out", out, "--quiet")) == 0
    assert sequences(out) == list(range(1, 11))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resume", "--out", "x"], "--resume needs --batch-id"),
        (["--resume", "--batch-id", "b"], "--resume needs --batch-id, and --out"),
        (["--detach", "--out", "x"], "--detach leaves before results come"),
        (["--detach", "--expect-field", "x"], "--detach leaves before results come"),
        (["--detach", "--resume", "--batch-id", "b", "--out", "x"], "--detach leaves before results come"),
    ],
)
def test_options_that_do_not_go_together(sidecar, rows: Path, capsys, arguments: list[str], message: str) -> None:
    assert main(command(sidecar, "run", rows, *arguments)) == 2
    assert message in capsys.readouterr().err
    assert sidecar.opens == []


def test_batches(sidecar, rows: Path, tmp_path: Path, capsys) -> None:
    assert main(command(sidecar, "batches", "--json")) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert main(going_on(sidecar, rows, tmp_path / "out.jsonl")) == 0
    assert main(command(sidecar, "batches")) == 0
    table = capsys.readouterr().out
    for cell in ("b", "finished", "10", "2026-01-02"):
        assert cell in table
    assert main(command(sidecar, "batches", "list", "--json")) == 0
    assert json.loads(capsys.readouterr().out)[0]["state"] == "BATCH_STATE_FINISHED"
    assert main(command(sidecar, "batches", "show", "b")) == 0
    assert json.loads(capsys.readouterr().out)["done"] == "10"
    assert main(command(sidecar, "batches", "cancel", "b")) == 0
    assert capsys.readouterr().out == "b: cancelled, 10 of 10 items done\n"
    assert main(command(sidecar, "batches", "cancel", "b", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["batch_id"] == "b"
    assert main(command(sidecar, "batches", "delete", "b")) == 0
    assert capsys.readouterr().out == "b: deleted\n"
    assert main(command(sidecar, "batches", "delete", "b", "--json")) == 2
    assert capsys.readouterr().err == "batch-llm: no, because\n"
