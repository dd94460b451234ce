"""Provider `python`: the operator's own function makes the strategies of a real sidecar."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from batch_llm import ProviderError
from batch_llm.shared import SharedStrategy
from batch_llm.strategies.factory import FactoryStrategy
from batch_llm_client import BatchClient, WorkItem
from batch_llm_client.errors import FailedPreconditionError

from .conftest import BIN, REPO, Start

HERE = "tests.integration.factories"
# The venv's packages may be elsewhere than the sources under test.
ENVIRONMENT = {"PYTHONPATH": os.pathsep.join([str(REPO), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)}

BROKEN = {
    "no_module": ("no_such_module:make", "there is no module 'no_such_module'"),
    "no_submodule": (f"{HERE}.deeper:make", f"there is no module '{HERE}.deeper'"),
    "no_attribute": (f"{HERE}:makes", f"'{HERE}' has no 'makes'"),
    "not_callable": (f"{HERE}:constant", "is int, which cannot be called"),
    "raises": (f"{HERE}:broken", "raised OSError: no licence file"),
    "returns": (f"{HERE}:wrong", "returned str, not an LLMCallStrategy"),
    "late": (f"{HERE}:late", "is async"),
    "late_object": (f"{HERE}:later", "is async"),
    "import_fails": ("broken_module:make", "RuntimeError: at import"),
    "import_misses": ("missing_module:make", "No module named 'not_installed'"),
    "unknown_option": (f"{HERE}:bare", "unexpected keyword argument 'colour'"),
}


def config() -> str:
    providers = {
        "made": (f"{HERE}:make", 'greeting = "hello"'),
        "everything": (f"{HERE}:everything", 'colour = "red"'),
        "bare": (f"{HERE}:bare", ""),
        "dotted": (f"{HERE}:Holder.make", ""),
        "counter": (f"{HERE}:counter", ""),
        "cached": (f"{HERE}:cached", ""),
        **{name: (factory, "") for name, (factory, _) in BROKEN.items()},
    }
    providers["unknown_option"] = (f"{HERE}:bare", 'colour = "red"')
    text = "".join(
        f'[providers.{name}]\nkind = "python"\nfactory = "{factory}"\n[providers.{name}.options]\n{options}\n'
        f'[strategies.{name}]\nprovider = "{name}"\nretry = {{initial_wait_seconds = 0}}\n'
        for name, (factory, options) in providers.items()
    )
    return f"""{text}
[strategies.full]
provider = "made"
model = "big"
system_instruction = "Be brief."
cached_content = ["handbook"]
output_json_schema = {{type = "object"}}
[strategies.full.generation]
temperature = 0
seed = 3
[strategies.handbook]
provider = "cached"
cached_content = ["handbook"]
[strategies.ignored]
provider = "bare"
model = "big"
"""


def write_modules(directory: Path) -> None:
    (directory / "broken_module.py").write_text("raise RuntimeError('at import')")
    (directory / "missing_module.py").write_text("import not_installed")


@pytest.fixture(scope="module")
def client(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BatchClient]:
    modules = tmp_path_factory.mktemp("modules")
    write_modules(modules)
    path = os.pathsep.join([str(modules), ENVIRONMENT["PYTHONPATH"]])
    sidecar = start("--listen", "127.0.0.1:0", config=config(), environment={"PYTHONPATH": path})
    with BatchClient(sidecar.wait_for(r"serving on (\S+)")[1], timeout=60) as client:
        yield client
    assert sidecar.stop() == 0


def ask(client: BatchClient, strategy: str, prompt: str = "what") -> str:
    result = client.process_item(WorkItem("a", prompt, strategy=strategy))
    assert result.ok, result.error
    return result.text or ""


def test_a_factory_is_told_what_it_asks_for(client: BatchClient) -> None:
    assert json.loads(ask(client, "full")) == {
        "name": "full",
        "model": "big",
        "instruction": "Be brief.",
        "content": ["handbook"],
        "generation": {"temperature": 0.0, "seed": 3},
        "greeting": "hello",
        "prepared": 1,
        "seen": [],
    }
    everything = json.loads(ask(client, "everything"))
    assert (everything["colour"], everything["name"], everything["output_json_schema"]) == ("red", "everything", "")
    assert ask(client, "bare") == ask(client, "dotted") == "WHAT"


def test_applications_may_register_strategies_on_it(client: BatchClient) -> None:
    client.register_strategy({"name": "mine", "provider": "made", "model": "small"})
    assert json.loads(ask(client, "mine"))["model"] == "small"
    assert client.get_strategy("mine").provider_kind == "python"


def test_attempts_errors_tokens_and_metadata_pass_through(client: BatchClient) -> None:
    result = client.process_item(WorkItem("a", "fail once", strategy="made"))
    assert (result.ok, result.attempts, result.model, result.finish_reason) == (True, 2, "recorder", "stop")
    assert json.loads(result.text or "")["seen"] == ["not yet"]
    assert (result.usage.input_tokens, result.usage.cached_input_tokens) == (15, 4)
    assert result.usage.effective_input_tokens == 13  # by the strategy's own discount


def test_the_cache_of_a_strategy_is_looked_after_from_the_start(client: BatchClient) -> None:
    assert not client.delete_cache("handbook")
    cache, reused = client.create_or_reuse_cache("handbook")
    assert (cache.strategy, reused) == ("handbook", False)
    assert client.delete_cache("handbook")
    with pytest.raises(FailedPreconditionError, match="has no cached content"):
        client.create_or_reuse_cache("bare")


def test_state_and_output_model_count(client: BatchClient) -> None:
    result = client.process_item(WorkItem("a", "label this", strategy="counter"))
    assert (json.loads(result.text or ""), result.attempts) == ({"label": "3", "score": 1.0}, 3)
    assert result.usage.input_tokens == 6


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("text", "grüezi"),
        ("model", '{"label":"a","score":0.5}'),
        ("table", '{"label":"ü","items":[1,{"label":"b","score":1.0}]}'),
        ("list", '[1,"two",null]'),
        ("dataclass", '{"x":3}'),
        ("number", "1.5"),
        ("truth", "true"),
        ("nothing", ""),
    ],
)
def test_outputs_that_are_no_text_travel_as_json(client: BatchClient, kind: str, text: str) -> None:
    assert ask(client, "made", kind) == text


def test_what_has_no_json_form_travels_as_its_text(client: BatchClient) -> None:
    assert "Point" in json.loads(ask(client, "made", "object"))["kind"]


@pytest.mark.parametrize("name", BROKEN)
def test_a_factory_that_fails_is_named(client: BatchClient, name: str) -> None:
    factory, message = BROKEN[name]
    result = client.process_item(WorkItem("a", "x", strategy=name))
    assert result.error is not None
    assert (result.error.reason, result.attempts) == ("PREPARE_FAILED", 0)
    assert f"factory {factory!r}" in result.error.message
    assert message in result.error.message
    assert result.error.metadata["factory"] == factory


def test_a_setting_that_the_factory_would_ignore_is_refused(client: BatchClient) -> None:
    result = client.process_item(WorkItem("a", "x", strategy="ignored"))
    assert result.error is not None
    assert "does not take model, which the strategy sets" in result.error.message


@pytest.mark.parametrize(
    ("provider", "message"),
    [
        ("", "providers.x.factory: Field required"),
        ("factory = 'mycompany.llm'", "providers.x.factory: must have the form"),
        ("factory = 'os; rm:x'", "providers.x.factory: must have the form"),
        ("factory = 'a:b:c'", "providers.x.factory: must have the form"),
        ("factory = 'a:b'\noptions = {model = 'm'}", "providers.x.options: model is what a strategy says of itself"),
    ],
)
def test_a_bad_configuration_is_explained(tmp_path: Path, provider: str, message: str) -> None:
    file = tmp_path / "sidecar.toml"
    file.write_text(f"[providers.x]\nkind = 'python'\n{provider}\n")
    done = subprocess.run([BIN / "batch-llm-sidecar", "check-config", file], capture_output=True, text=True)
    assert done.returncode != 0
    assert message in done.stderr


def check(file: Path, modules: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(modules), ENVIRONMENT["PYTHONPATH"]])
    return subprocess.run(
        [BIN / "batch-llm-sidecar", "check-config", file],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )


def test_checking_the_file_imports_factories_and_calls_none(tmp_path: Path) -> None:
    write_modules(tmp_path)
    file = tmp_path / "sidecar.toml"
    file.write_text(config() + '[strategies.moves]\nprovider = "bare"\nescalation_models = ["big"]\n')
    done = check(file, tmp_path)
    lines = done.stderr.splitlines()
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for name in BROKEN.keys() - {"raises", "returns"}:  # known only when they are called, which may cost
        factory, reason = BROKEN[name]
        key = "options" if name == "unknown_option" else "factory"
        (line,) = [line for line in lines if line.startswith(f"{file}: providers.{name}.{key}: {factory!r} ")]
        assert reason in line
        lines.remove(line)
    factory = f"'{HERE}:bare' does not take"
    assert lines == [
        f"{file}: strategies.ignored.model: {factory} it; leave it out or let it",
        f"{file}: strategies.moves.escalation_models: {factory} a model; leave it out",
    ]


def test_a_module_that_ends_the_program_and_an_option_that_is_missing_are_told(tmp_path: Path) -> None:
    (tmp_path / "leaving.py").write_text("raise SystemExit(0)")
    (tmp_path / "wanting.py").write_text("def make(*, region, model): ...")
    file = tmp_path / "sidecar.toml"
    file.write_text(
        "[providers.a]\nkind = 'python'\nfactory = 'leaving:make'\n"
        "[providers.b]\nkind = 'python'\nfactory = 'wanting:make'\n"
    )
    done = check(file, tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"{file}: providers.a.factory: 'leaving:make' cannot be imported: SystemExit: 0",
        f"{file}: providers.b.options: 'wanting:make' cannot be called with the options given: "
        "missing a required argument: 'region'; they are its keyword arguments",
    ]


def test_factories_that_can_be_used_are_fine(tmp_path: Path) -> None:
    file = tmp_path / "sidecar.toml"
    file.write_text(
        f"[providers.a]\nkind = 'python'\nfactory = '{HERE}:make'\noptions = {{greeting = 'hello'}}\n"
        f"[providers.b]\nkind = 'python'\nfactory = '{HERE}:Holder.make'\n"
        "[strategies.a]\nprovider = 'a'\nmodel = 'm'\n"
    )
    done = check(file, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


async def test_the_limiter_of_the_strategy_is_the_engines_to_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPO))
    shared = SharedStrategy(FactoryStrategy(f"{HERE}:one_by_one"), max_concurrency=5)
    await shared.prepare()
    assert ([limiter.limit for limiter in shared.limiters], shared.max_concurrency) == ([5, 1], 1)


async def test_a_strategy_whose_attributes_make_no_sense_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(REPO))
    (tmp_path / "costly.py").write_text(
        f"from {HERE} import Recorder\n"
        "def make():\n    made = Recorder()\n    made.cache_discount = 90\n    return made"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ProviderError, match=r"'costly:make' returned .*: cache_discount must be at most 1, got 90"):
        await FactoryStrategy("costly:make").prepare()


async def test_it_is_made_when_first_needed_and_made_again_after_cleanup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPO))
    strategy = FactoryStrategy(f"{HERE}:bare")
    assert (strategy.context_cache, strategy.cache_discount) == (None, 0.9)
    output, _ = await strategy.dry_run("hello")
    assert "hello" in output
    for _ in range(2):
        await strategy.prepare()
        assert (await strategy.execute("a", 1, 30, {}))[0] == "A"
        await strategy.cleanup()
