"""What the command does before it serves."""

import sys

import pytest

from batch_llm.sidecar.cli import main


class Interrupted:
    """Somebody types Ctrl-C while a module is being imported."""

    def __init__(self, module: str) -> None:
        self._module = module

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == self._module:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("arguments", "module"),
    [(["serve"], "batch_llm.sidecar.server"), (["journal", "check"], "batch_llm.sidecar.journal_command")],
)
def test_an_interrupt_while_it_starts(monkeypatch, capsys, arguments: list[str], module: str) -> None:
    monkeypatch.delitem(sys.modules, module, raising=False)
    package, _, name = module.rpartition(".")
    monkeypatch.delattr(sys.modules[package], name, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupted(module), *sys.meta_path])
    assert main(arguments) == 130
    assert capsys.readouterr() == ("", "")
