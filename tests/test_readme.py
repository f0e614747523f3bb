"""The README's commands run, in their order, and what it promises in numbers of lines holds."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from nmt import cli, compose

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

# `nmt` as typed, but with runs of ten steps.
PRELUDE = f"""
set -euo pipefail
nmt() {{
    case "$*" in
        "train run="*) {shlex.quote(sys.executable)} -m nmt "$@" ;;  # goes on with what is stored
        train*|prepare*) {shlex.quote(sys.executable)} -m nmt "$@" debug=tiny ;;
        *) {shlex.quote(sys.executable)} -m nmt "$@" ;;
    esac
}}
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_it_stays_a_front_page() -> None:
    assert README.count("\n") <= 250


@pytest.mark.slow
def test_its_commands_run(tmp_path: Path) -> None:
    script = PRELUDE + "\n".join(blocks("bash"))
    assert script.count("\nnmt ") >= 7
    env = {**os.environ, "NMT_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_commands_of_its_results_compose() -> None:
    """These take minutes to hours and other data; that they are valid is what is tested."""
    count = 0
    for line in "\n".join(blocks("console")).splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        if words[:2] != ["nmt", "train"]:
            continue
        arguments = cli.parse("train", words[2:])
        compose.compose(arguments.words, arguments.config)
        count += 1
    assert count >= 4
