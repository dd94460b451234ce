"""The suite itself: every case can fail, and what is written wrongly is told before anything runs."""

from __future__ import annotations

import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from batchllm.v1 import work_pb2

from .__main__ import main
from .adapter import Adapter, AdapterError
from .adapters import ADAPTERS
from .cases import Case, CaseError, known_failure, load, load_known_failures
from .ledger import Ledger
from .matching import differences, readable, result
from .notation import expand
from .report import Outcome, outcome_of, table
from .runner import CaseRun, Suite
from .world import Sidecar, World

_CASES = load()


class _Silent:
    """Answers everything, with nothing."""

    def __init__(self, *sets: str) -> None:
        self.sets = sets

    def ask(self, command: dict[str, Any], seconds: float = 0) -> dict[str, Any]:
        return {}


class _Nowhere(World):
    def __init__(self, folder: Path) -> None:
        super().__init__(Sidecar(folder), has_network=False)

    def do(self, what: str, step: object) -> None:
        pass


@pytest.mark.parametrize("case", _CASES, ids=lambda case: f"{case.theme}: {case.name}")
def test_a_client_that_says_nothing_passes_no_case(tmp_path: Path, case: Case) -> None:
    adapter = _Silent("client" if case.set == "any" else case.set)
    with closing(_Nowhere(tmp_path)) as world, pytest.raises(AssertionError, match="step"):
        CaseRun(case, adapter, world, "run-1", seconds=0).run()  # type: ignore[arg-type]


def test_what_goes_on_in_the_background_for_too_long_fails_the_case(tmp_path: Path) -> None:
    steps = _GOOD.replace("      expect:", "      background: x\n    - do: await\n      of: x\n      expect:")
    (tmp_path / "cases.yaml").write_text(steps)
    (case,) = load(tmp_path)
    asked = threading.Event()

    class Mute(_Silent):
        def ask(self, command: dict[str, Any], seconds: float = 0) -> dict[str, Any]:
            if command["do"] == "call":
                asked.wait(60)
            return {}

    with closing(_Nowhere(tmp_path)) as world:
        run = CaseRun(case, Mute("client"), world, "run-1", seconds=0)  # type: ignore[arg-type]
        with pytest.raises(AssertionError, match=r"step 2 \(await\): 'x' goes on after 0 s"):
            run.run()
        asked.set()


def test_there_are_as_many_cases_as_were_promised() -> None:
    for _, sets in ADAPTERS.values():
        assert sum(case.runs_on(sets) for case in _CASES) >= 60


# -- what is expected ----------------------------------------------------------------------------------------------


def _answer(**fields: Any) -> dict[str, Any]:
    output = work_pb2.Output(text="y", finish_reason="stop")
    message = work_pb2.WorkItemResult(item_id="a", sequence=1, attempts=1, output=output)
    for key, value in fields.items():
        setattr(message, key, value)
    return {"results": [result(message)]}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, None),
        ({"item_id": "b"}, "item_id: expected a, there is b"),
        ({"replayed": True}, "replayed: expected false, there is true"),
        ({"maybe_billed": True}, "maybe_billed"),
        ({"context": b"x"}, "context"),
        ({"attempts": 2}, "attempts: expected 1, there is 2"),
    ],
)
def test_what_a_case_does_not_name_has_its_default(fields: dict[str, Any], told: str | None) -> None:
    found = list(differences({"results": [{"item_id": "a", "text": "y"}]}, _answer(**fields)))
    assert found == [] if told is None else told in found[0]


@pytest.mark.parametrize(
    ("expected", "answer", "told"),
    [
        ({}, {"error": {"code": "NOT_FOUND"}}, "error: nothing was expected"),
        ({}, {"totals": {"total_items": 1}}, "totals: nothing was expected"),
        ({}, {"results": [{"item_id": "a"}]}, "results: nothing was expected"),
        ({}, {"results": []}, ""),
        ({"totals": {}}, {}, "totals: expected {}, there is none"),
        ({"error": {"code": "NOT_FOUND"}}, {"error": {"code": "NOT_FOUND", "reason": "X"}}, "error.reason"),
        ({"error": {"code": "NOT_FOUND"}}, {"error": {"code": "NOT_FOUND", "retry_after": 5.0}}, "error.retry_after"),
        ({"error": {"code": "A", "metadata": {"f": "x"}}}, {"error": {"code": "A"}}, "error.metadata"),
        ({"error": {"code": "A"}}, {"error": {"code": "A", "metadata": {"f": "x"}}}, "error.metadata"),
        ({"error": {"code": "A"}}, {"error": {"code": "A", "message": "for people"}}, ""),
        ({"results": []}, {"results": [{"item_id": "a"}]}, "0 result(s) were expected, there are 1"),
        ({"response": {"deleted": True}}, {"response": {"deleted": 1}}, "response.deleted"),
        ({"response": {"batches": [{}]}}, {"response": {"batches": []}}, "response.batches"),
        ({"taken": {"$below": 5}}, {"taken": 5}, "taken"),
        ({"taken": {"$above": 5}}, {"taken": 5}, "taken"),
        ({"batch_id": {"$contains": "-"}}, {"batch_id": "x"}, "batch_id"),
        ({"opened": {"items": {"$absent": True}}}, {"opened": {"items": 0}}, "opened.items"),
        ({"opened": {"items": {"$any": True}}}, {"opened": {}}, "opened.items"),
    ],
)
def test_what_came_is_compared_exactly(expected: dict[str, Any], answer: dict[str, Any], told: str) -> None:
    found = list(differences(expected, answer))
    assert found == [] if not told else told in found[0]


def _row(sequence: int, index: int, **fields: Any) -> dict[str, Any]:
    usage = {"input_tokens": 2, "output_tokens": 1, "cached_input_tokens": 1}
    return {"item_id": str(index), "submission_index": index, "sequence": sequence, "usage": usage, **fields}


_TOTALS = {
    "total_items": 2,
    "succeeded": 1,
    "failed": 1,
    "total_input_tokens": 4,
    "total_output_tokens": 2,
    "total_cached_tokens": 2,
    "cache_hit_rate": 50.0,
    "failures_by_reason": {"INTERNAL": 1},
}


def test_every_batch_is_added_up() -> None:
    rows = [_row(1, 1), _row(2, 0, reason="INTERNAL")]
    ledger = Ledger()
    ledger.add({"results": rows[:1]})
    ledger.add({"results": rows[1:], "totals": _TOTALS})
    for key, value in _TOTALS.items():
        wrong = {**_TOTALS, key: {} if isinstance(value, dict) else value + 1}
        with pytest.raises(AssertionError):
            Ledger().add({"results": rows, "totals": wrong})
    for bad in ([_row(2, 0)], [_row(1, 0), _row(1, 1)], [_row(1, 0), _row(2, 0)], [_row(1, 0, outcome="none")]):
        with pytest.raises(AssertionError):
            Ledger().add({"results": bad})
    with pytest.raises(AssertionError):
        ledger.add({"totals": _TOTALS})
    Ledger(after=4).add({"results": [_row(5, 0)], "totals": _TOTALS})


def test_an_answer_that_is_no_message_is_told() -> None:
    with pytest.raises(ValueError, match="no WorkItemResult: "):
        readable({"results": [{"item": "a"}]})


# -- how cases are written -----------------------------------------------------------------------------------------


def test_what_is_abbreviated_is_written_out() -> None:
    assert expand({"repeat": "ab", "times": 3}) == "ababab"
    assert expand(
        {"count": 2, "from": 5, "each": {"item_id": "i{n}", "simulate": {"reply": "{run}-{n}"}}}, run="r"
    ) == [
        {"item_id": "i5", "prompt": '{"simulate": {"reply": "r-5"}}'},
        {"item_id": "i6", "prompt": '{"simulate": {"reply": "r-6"}}'},
    ]


_GOOD = """
- name: good
  holds: x
  steps:
    - do: call
      method: GetBatch
      expect: {error: {code: NOT_FOUND}}
"""


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("  holds: x\n", ""), "good: a case has `name`, `holds` and `steps`"),
        (("  holds: x\n", "  holds: x\n  sets: raw\n"), "unknown key(s) sets"),
        (("  holds: x\n", "  holds: x\n  set: rwa\n"), "set is any, client or raw, not 'rwa'"),
        (("do: call", "do: cal"), "step 1: `do` is one of"),
        (("      method: GetBatch\n", ""), "step 1: call needs method"),
        (("GetBatch", "GetBatches"), "step 1: method is one of"),
        (("do: call", "do: call\n      requests: {}"), "call does not take requests"),
        (("do: call", "do: call\n      request: {batch: x}"), "no GetBatchRequest"),
        (("{error:", "{eror:"), "of call can be expected: error, response"),
        (("{error: {code: NOT_FOUND}}", "{response: {bath: {}}}"), "GetBatchResponse has no field bath"),
        (("code: NOT_FOUND", "code: {$contain: x}"), "$contain is none of"),
        (("      expect: {error: {code: NOT_FOUND}}\n", ""), "expects nothing, so it cannot fail"),
        (("do: call", "do: call\n      background: x"), "stands with its `await`"),
        (
            ("      expect:", "      background: x\n    - do: call\n      method: GetBatch\n      expect:"),
            "in the background",
        ),
        (("    - do: call", "    - do: batch.end\n    - do: call"), "batch.end needs `set: client`"),
        (("  holds: x\n", "  holds: x\n  holds: y\n"), "more than once"),
        (("- name: good", "- nme: [good"), "cases.yaml: "),
    ],
)
def test_a_case_that_is_written_wrongly_is_told(tmp_path: Path, change: tuple[str, str], told: str) -> None:
    file = tmp_path / "cases.yaml"
    file.write_text(_GOOD)
    assert [case.name for case in load(tmp_path)] == ["good"]
    file.write_text(_GOOD.replace(*change))
    with pytest.raises(CaseError) as failure:
        load(tmp_path)
    assert str(failure.value).startswith("cases.yaml: ")
    assert told in str(failure.value)


def test_two_cases_of_one_name_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(_GOOD + _GOOD)
    with pytest.raises(CaseError, match="two cases are named 'good'"):
        load(tmp_path)


def test_known_failures_are_of_cases_that_there_are_and_have_reasons(tmp_path: Path) -> None:
    (tmp_path / "cases.yaml").write_text(_GOOD)
    cases = load(tmp_path)
    file = tmp_path / "known"
    file.write_text("[{adapter: go, case: good, reason: later}]")
    known = load_known_failures(cases, file)
    assert (known_failure(known, "go", cases[0]), known_failure(known, "java", cases[0])) == ("later", None)
    file.write_text("[{adapter: '*', case: good, reason: later}]")
    assert known_failure(load_known_failures(cases, file), "java", cases[0]) == "later"
    for wrong, told in (
        ("[{adapter: go, case: god, reason: later}]", "there is no case 'god'"),
        ("[{adapter: go, case: good, reason: ''}]", "an entry has"),
        ("[{adapter: go, case: good}]", "an entry has"),
    ):
        file.write_text(wrong)
        with pytest.raises(CaseError, match=told):
            load_known_failures(cases, file)


def test_a_known_failure_that_passes_is_reported() -> None:
    assert outcome_of(None, None) is Outcome.PASSED
    assert outcome_of(AssertionError(), None) is Outcome.FAILED
    assert outcome_of(AssertionError(), "later") is Outcome.KNOWN
    assert outcome_of(None, "later") is Outcome.NO_LONGER
    assert [outcome for outcome in Outcome if not outcome.is_fine] == [Outcome.FAILED, Outcome.NO_LONGER]


def test_the_table_has_a_row_for_each_case_and_a_column_for_each_adapter() -> None:
    cases = [Case("one", "", "any", [], None, "frames"), Case("two", "", "raw", [], None, "bad_input")]
    outcomes = {("go", "one"): Outcome.PASSED, ("rust", "one"): Outcome.FAILED, ("rust", "two"): Outcome.KNOWN}
    assert list(table(cases, ["go", "rust"], outcomes)) == [
        "        go      rust",
        "frames:",
        "  one   ok      FAILED",
        "bad input:",
        "  two   ·       known",
        "",
        "ok      1       0",
        "FAILED  0       1",
        "known   0       1",
    ]


# -- adapters ------------------------------------------------------------------------------------------------------


def _adapter(tmp_path: Path, program: str) -> Adapter:
    return Adapter([sys.executable, "-c", program], tmp_path / "log")


_HELLO = 'import sys, json\nprint(json.dumps({"id": 1, "name": "x", "sets": []}), flush=True)\n'


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("", "ended before it answered"),
        ('print(\'{"id": 1, "name": "x"}\')', "hello must be answered with `name` and `sets`"),
        ('print(\'{"id": 1, "name": "x", "sets": ["grpc"]}\')', "hello must be answered with `name` and `sets`"),
        ('print("hello")\ninput()', "said what is no answer to anything: hello"),
        ("import sys; sys.exit('no such thing')", "its stderr ends with:\nno such thing"),
    ],
)
def test_an_adapter_that_does_not_do_as_it_is_told(tmp_path: Path, program: str, told: str) -> None:
    with pytest.raises(AdapterError) as failure:
        _adapter(tmp_path, program)
    assert told in str(failure.value)


def test_an_adapter_that_cannot_says_so(tmp_path: Path) -> None:
    adapter = _adapter(tmp_path, _HELLO + 'input(), input()\nprint(json.dumps({"id": 2, "fault": "no such command"}))')
    with pytest.raises(AdapterError, match="cannot: no such command"):
        adapter.ask({"do": "fly"})
    adapter.end()


def test_an_adapter_that_does_not_end_well_is_told(tmp_path: Path) -> None:
    adapter = _adapter(tmp_path, _HELLO + "sys.stdin.read()\nsys.exit(3)")
    with pytest.raises(AdapterError, match="ended with code 3"):
        adapter.end()


def test_the_command_runs_cases_on_any_adapter_and_prints_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    command, _ = ADAPTERS["python-generated"]
    arguments = ["--adapter", " ".join(command), "--case", "items before open end the stream"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == ["python-generated"]
    assert printed[1:3] == ["frames:", "  items before open end the stream  ok"]
    assert main(["--case", "no such case"]) == 2
    assert main(["--adapter", "/no/such/program"]) == 2


def test_a_case_that_fails_says_where(tmp_path: Path) -> None:
    (tmp_path / "cases.yaml").write_text(_GOOD.replace("NOT_FOUND", "ABORTED"))
    (case,) = load(tmp_path)
    with Suite() as suite, pytest.raises(AssertionError, match=r"step 1 \(call\): error.code: expected ABORTED"):
        suite.run(case, ADAPTERS["python-generated"][0])
