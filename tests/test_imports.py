"""Imports point one way, and help imports nothing heavy."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nmt

ROOT = Path(nmt.__file__).parent

# Room or file -> what of nmt it may import. The longest matching name counts.
ALLOWED = {
    "errors": set(),
    "allocator": set(),
    "config": {"errors"},
    "files": {"errors"},
    "presets": {"config", "errors"},
    "stored": {"config"},
    "idle": {"config", "errors"},
    "compose": {"config", "errors", "files", "idle", "presets", "stored"},
    "multirun": {"compose", "errors", "presets"},
    "data": {"data", "errors", "files"},
    "data.prepare": {"data", "config", "errors", "files"},
    "data.parts": {"data", "config", "errors"},
    "models": {"models", "errors"},
    "models.build": {"models", "config", "errors"},
    "training": {"training", "models", "data", "errors", "files"},
    "decoding": {"decoding", "models", "data", "errors"},
    "evaluation": {"evaluation", "decoding", "models", "data", "errors"},
    "runs": {"compose", "config", "data", "models", "training", "errors", "files"},
    "translator": {"runs", "config", "decoding", "models", "data", "errors"},
    "commands": {
        *("commands", "cli", "completion", "compose", "config", "idle", "multirun", "runs"),
        *("allocator", "translator", "errors", "files"),
        *("data", "models", "training", "decoding", "evaluation"),
    },
    "cli": {"config", "completion", "errors"},
    "completion": {"cli", "presets"},
    "__main__": {"cli"},
    "__init__": {"translator"},
}


def modules() -> list[tuple[str, Path]]:
    found = []
    for file in sorted(ROOT.rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        found.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), file))
    return [(name or "__init__", file) for name, file in found]


def imported(file: Path) -> set[str]:
    """Modules of nmt that a file imports, anywhere in it, also late or for types only."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            # `from nmt import runs` imports a module, `from nmt.runs import Run` a name of one.
            names = [f"nmt.{a.name}" for a in node.names] if node.module == "nmt" else [node.module]
        else:
            continue
        found |= {name.removeprefix("nmt.") for name in names if name and name.startswith("nmt.")}
    return found - {"__version__", "Translator"}


def rule(module: str) -> set[str]:
    matching = [name for name in ALLOWED if module == name or module.startswith(f"{name}.")]
    assert matching, f"{module} is in no room that the import rule knows"
    return ALLOWED[max(matching, key=len)]


def within(name: str, allowed: set[str]) -> bool:
    return any(name == a or name.startswith(f"{a}.") for a in allowed)


@pytest.mark.parametrize(("module", "file"), modules(), ids=[name for name, _ in modules()])
def test_imports_point_one_way(module: str, file: Path) -> None:
    wrong = {name for name in imported(file) if not within(name, rule(module))}
    assert not wrong, f"nmt.{module} must not import {sorted(wrong)}"


def test_the_rule_sees_the_modules_it_is_about() -> None:
    names = [name for name, _ in modules()]
    assert len(names) >= 30
    assert imported(ROOT / "runs.py") >= {"compose", "config"}


def test_only_compose_and_multirun_know_hydra() -> None:
    pattern = re.compile(r"^\s*(?:import|from) (?:hydra|omegaconf)\b", re.MULTILINE)
    users = {m for m, file in modules() if pattern.search(file.read_text(encoding="utf-8"))}
    assert users == {"compose", "multirun"}


TRANSLATING = (
    "import sys; from nmt.cli import main; status = main(['translate', *sys.argv[1:]]);"
    "print('|', *{m.partition('.')[0] for m in sys.modules}); sys.exit(status)"
)


def loaded_after(argv: list[str]) -> set[str]:
    """Top-level packages in sys.modules after `nmt ARGV`, in a fresh process."""
    code = (
        "import sys; from nmt.cli import main; status = main(sys.argv[1:]);"
        "print('|', *{m.partition('.')[0] for m in sys.modules}); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("|")[2].split())


def test_help_imports_neither_hydra_nor_torch() -> None:
    assert not loaded_after(["--help"]) & {"hydra", "omegaconf", "torch", "datasets", "numpy"}


@pytest.mark.parametrize(
    "command",
    ["prepare", "train", "evaluate", "translate", "align", "score", "info", "compare", "story"],
)
def test_help_of_a_command_imports_neither_torch_nor_datasets(command: str) -> None:
    assert not loaded_after([command, "--help"]) & {"torch", "datasets", "matplotlib"}


def test_translating_imports_no_compiler_no_corpora_no_pictures(trained: Path) -> None:
    """What would take longer than the translation of a sentence; sympy comes with PyTorch's
    compiler, which an innocent normal_() on a meta tensor imports."""
    done = subprocess.run(
        [sys.executable, "-c", TRANSLATING, f"run={trained}"],
        input="A dog.\n",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.rpartition("|")[2].split())
    assert "torch" in loaded
    assert not loaded & {"omegaconf", "hydra", "antlr4"}
    assert not loaded & {"sympy", "hydra", "datasets", "matplotlib", "tensorboard"}
    assert not loaded & {"sacrebleu", "pandas", "optuna", "rich"}
