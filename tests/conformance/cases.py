"""The cases: read, and checked before any is run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from batchllm.v1 import batch_service_pb2 as pb
from batchllm.v1 import work_pb2

from .matching import ANY_ORDER, OPERATORS, RESULTS
from .notation import METHODS, expand, parse

FOLDER = Path(__file__).parent / "cases"
ANY_ADAPTER = "*"
KNOWN_FAILURES = Path(__file__).parent / "known_failures.yaml"
ANY_SET = "any"
_MOST = 2  # repetitions are written out so far to be looked at
_COMMON = {"do", "expect"}
_TARGETS = ("sidecar", "nobody")
_OF_RESULTS = {RESULTS, ANY_ORDER, "totals", "error"}


class CaseError(ValueError):
    """A case is not written as it must be."""


@dataclass(frozen=True, slots=True)
class _Command:
    """What a step may say.

    Args:
        needs: keys that must be there.
        takes: keys that may be.
        shows: what can be expected of it.
        set: the adapter's set; "": the runner does it, or every adapter.
    """

    needs: frozenset[str] = frozenset()
    takes: frozenset[str] = frozenset()
    shows: frozenset[str] = frozenset({"error"})
    set: str = ""


def _command(needs: str = "", takes: str = "", shows: object = ("error",), of: str = "") -> _Command:
    return _Command(frozenset(needs.split()), frozenset(takes.split()), frozenset(shows), of)  # type: ignore[call-overload]


COMMANDS: Mapping[str, _Command] = {
    "connect": _command("client", "target resume_policy"),
    "close": _command("client"),
    "call": _command("method", "client request timeout background eventually settled", ("response", "error")),
    "run": _command("open items", "client resume timeout background", {*_OF_RESULTS, "opened"}),
    "await": _command("of", "", {*_OF_RESULTS, "response", "items", "opened"}),
    "batch.start": _command("open items", "client batch more resume timeout background", of="client"),
    "batch.resume": _command("batch_id", "client batch after timeout", of="client"),
    "batch.add": _command("items", "batch", of="client"),
    "batch.end": _command("", "batch", of="client"),
    "batch.opened": _command("", "batch", ("opened", "error"), "client"),
    "batch.next": _command("", "batch count background", _OF_RESULTS, "client"),
    "batch.status": _command(
        "", "batch eventually settled", ("batch_id", "last_sequence", "taken", "progress"), "client"
    ),
    "batch.cancel": _command("", "batch", of="client"),
    "batch.leave": _command("", "batch background", ("items", "error"), "client"),
    "stream.open": _command("", "client stream timeout open", of="raw"),
    "stream.send": _command("frame", "stream background", of="raw"),
    "stream.half_close": _command("", "stream", of="raw"),
    "stream.read": _command(
        "to", "stream background", {*_OF_RESULTS, "opened", "accepted", "progress", "frames"}, "raw"
    ),
    "stream.cancel": _command("", "stream", of="raw"),
    "sidecar.kill": _command(),
    "sidecar.terminate": _command(),
    "sidecar.ended": _command(),
    "sidecar.start": _command(),
    "network.reset": _command(),
    "network.stall": _command("", "ways"),
    "network.flow": _command(),
    "network.cut": _command("after"),
}
"""Every step that there is."""


@dataclass(frozen=True, slots=True)
class Case:
    """One case.

    Args:
        name: a sentence, unique.
        holds: what the protocol says.
        set: the set that an adapter must have; "any": either.
        steps: what is done, one after another.
        sidecar: settings of a sidecar of its own, by their keys in the operator's file; None: any sidecar.
        theme: the file it is in.
    """

    name: str
    holds: str
    set: str
    steps: list[dict[str, Any]] = field(repr=False)
    sidecar: Mapping[str, Any] | None
    theme: str

    def runs_on(self, sets: object) -> bool:
        return self.set == ANY_SET or self.set in sets  # type: ignore[operator]

    @property
    def has_network(self) -> bool:
        """Whether what lies between client and sidecar is the case's to break."""
        return any(step["do"].startswith(("network.", "sidecar.")) for step in self.steps)

    @property
    def own_sidecar(self) -> bool:
        return self.sidecar is not None or any(step["do"].startswith("sidecar.") for step in self.steps)


def load(folder: Path = FOLDER) -> list[Case]:
    """All cases, by file and place.

    Raises:
        CaseError: something is wrong with one; the message names file, case and step.
    """
    cases: list[Case] = []
    for file in sorted(folder.glob("*.yaml")):
        for entry in _read(file):
            case = _case(entry, file)
            if any(other.name == case.name for other in cases):
                raise CaseError(f"{file.name}: two cases are named {case.name!r}")
            cases.append(case)
    if not cases:
        raise CaseError(f"{folder} has no cases")
    return cases


def load_known_failures(cases: list[Case], file: Path = KNOWN_FAILURES) -> dict[tuple[str, str], str]:
    """Reasons by adapter and case; a fault of the sidecar's is every adapter's, `*`.

    Raises:
        CaseError: an entry has no reason, or there is no such case.
    """
    known = {}
    names = {case.name for case in cases}
    for entry in _read(file):
        if not isinstance(entry, dict) or entry.keys() != {"adapter", "case", "reason"} or not all(entry.values()):
            raise CaseError(f"{file.name}: an entry has `adapter`, `case` and `reason`, not {entry}")
        if entry["case"] not in names:
            raise CaseError(f"{file.name}: there is no case {entry['case']!r}")
        known[entry["adapter"], entry["case"]] = entry["reason"]
    return known


def known_failure(known: Mapping[tuple[str, str], str], adapter: str, case: Case) -> str | None:
    """Why a case fails on an adapter; None: it should pass."""
    return known.get((adapter, case.name)) or known.get((ANY_ADAPTER, case.name))


class _Loader(yaml.SafeLoader):
    """Refuses a key that is there twice; YAML's own would take the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]  # type: ignore[no-untyped-call]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise CaseError(f"line {node.start_mark.line + 1}: {sorted(twice)} more than once")
        return super().construct_mapping(node, deep)


def _read(file: Path) -> list[Any]:
    try:
        entries = yaml.load(file.read_text(), _Loader) or []  # noqa: S506  # a safe loader
    except (yaml.YAMLError, CaseError) as error:
        raise CaseError(f"{file.name}: {error}") from None
    if not isinstance(entries, list):
        raise CaseError(f"{file.name}: must be a list")
    return entries


def _case(entry: Any, file: Path) -> Case:
    where = f"{file.name}: {entry.get('name', entry) if isinstance(entry, dict) else entry}"
    if not isinstance(entry, dict) or not {"name", "holds", "steps"} <= entry.keys():
        raise CaseError(f"{where}: a case has `name`, `holds` and `steps`")
    if more := entry.keys() - {"name", "holds", "steps", "set", "sidecar"}:
        raise CaseError(f"{where}: unknown key(s) {', '.join(sorted(more))}")
    kind = entry.get("set", ANY_SET)
    if kind not in (ANY_SET, "client", "raw"):
        raise CaseError(f"{where}: set is any, client or raw, not {kind!r}")
    steps = entry["steps"]
    if not isinstance(steps, list):
        raise CaseError(f"{where}: steps must be a list")
    for number, step in enumerate(steps, 1):
        for problem in _problems(step, kind):
            raise CaseError(f"{where}: step {number}: {problem}")
    case = Case(entry["name"], entry["holds"], kind, steps, entry.get("sidecar"), file.stem)
    begun = [step["background"] for step in steps if "background" in step]
    awaited = [step["of"] for step in steps if step["do"] == "await"]
    if sorted(begun) != sorted(awaited):
        raise CaseError(f"{where}: begun in the background: {begun}, awaited: {awaited}")
    if not any("expect" in step for step in steps):
        raise CaseError(f"{where}: expects nothing, so it cannot fail")
    return case


def _problems(step: Any, kind: str) -> Iterator[str]:
    command = COMMANDS.get(step.get("do", "")) if isinstance(step, dict) else None
    if command is None:
        yield f"`do` is one of {', '.join(COMMANDS)}; not {step}"
        return
    do = step["do"]
    if command.set and command.set != kind:
        yield f"{do} needs `set: {command.set}`"
    if missing := command.needs - step.keys():
        yield f"{do} needs {', '.join(sorted(missing))}"
    if more := step.keys() - command.needs - command.takes - _COMMON:
        yield f"{do} does not take {', '.join(sorted(more))}"
    if "background" in step and "expect" in step:
        yield "what is expected of a step in the background stands with its `await`"
    if step.get("target", "sidecar") not in _TARGETS:
        yield f"target is one of {', '.join(_TARGETS)}; not {step['target']!r}"
    expected = step.get("expect", {})
    if not isinstance(expected, dict) or (expected.keys() - command.shows):
        yield f"of {do} can be expected: {', '.join(sorted(command.shows))}; not {expected}"
    else:
        yield from _unknown_operators(expected, "expect")
    try:
        _parse(expand(step, most=_MOST))
    except (ValueError, TypeError) as error:
        yield str(error)


def _parse(step: dict[str, Any]) -> None:
    """Read a step's messages. ValueError: one cannot be."""
    parse(pb.OpenBatch(), step.get("open", {}))
    parse(pb.ProcessBatchRequest(), step.get("frame", {}))
    for item in step.get("items", []):
        parse(work_pb2.WorkItem(), item)
    if "method" in step:
        if step["method"] not in METHODS:
            raise ValueError(f"method is one of {', '.join(METHODS)}; not {step['method']!r}")
        request, response = METHODS[step["method"]]
        parse(request(), step.get("request", {}))
        expected = step.get("expect", {}).get("response", {})
        known = response.DESCRIPTOR.fields_by_name
        if more := expected.keys() - known.keys():
            raise ValueError(f"{response.DESCRIPTOR.name} has no field {', '.join(sorted(more))}")


def _unknown_operators(expected: Any, where: str) -> Iterator[str]:
    if isinstance(expected, dict):
        for key, value in expected.items():
            if str(key).startswith("$") and key not in OPERATORS:
                yield f"{where}: {key} is none of {', '.join(OPERATORS)}"
            yield from _unknown_operators(value, f"{where}.{key}")
    elif isinstance(expected, list):
        for value in expected:
            yield from _unknown_operators(value, where)
