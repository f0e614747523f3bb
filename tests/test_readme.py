"""The README's commands run, in their order, and what it promises in numbers of lines holds."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from nmt import cli, compose, multirun

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

# `nmt` as typed, but with runs of ten steps, and in forks of one process: ten that each import
# torch would take most of a minute.
PRELUDE = f"""
set -euo pipefail
nmt() {{
    case "$*" in
        "train run="*) ;;  # goes on with what is stored
        train*|prepare*) set -- "$@" debug=tiny ;;
    esac
    {shlex.quote(sys.executable)} -S ask.py "$@"
}}
"""
ASK = """
import json, socket, sys
with socket.socket(socket.AF_UNIX) as door:
    door.connect("door")
    socket.send_fds(door, [json.dumps(sys.argv[1:]).encode()], [0, 1, 2])
    sys.exit(door.recv(1)[0])
"""
SERVE = """
import json, os, socket, sys
from nmt import cli
from nmt.commands import align, evaluate, info, score, train, translate
with socket.socket(socket.AF_UNIX) as door:
    door.bind("door")
    door.listen()
    print("ready", flush=True)
    while True:
        asker, _ = door.accept()
        words, files, *_ = socket.recv_fds(asker, 65536, 3)
        if os.fork() == 0:
            for place, file in enumerate(files):
                os.dup2(file, place)
            status = cli.main(json.loads(words))
            sys.stdout.flush()
            asker.send(bytes([status]))
            os._exit(0)
        os.wait()
        for file in files:
            os.close(file)
        asker.close()
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_it_stays_a_front_page() -> None:
    assert README.count("\n") <= 250


@pytest.mark.slow
def test_its_commands_run(tmp_path: Path) -> None:
    script = PRELUDE + "\n".join(blocks("bash"))
    assert script.count("\nnmt ") >= 7
    (tmp_path / "ask.py").write_text(ASK)
    env = {**os.environ, "NMT_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    serve = [sys.executable, "-c", SERVE]
    with subprocess.Popen(serve, cwd=tmp_path, env=env, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        server.stdout.readline()
        bash = ["bash", "-c", script]
        done = subprocess.run(
            bash, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=500
        )
        server.kill()
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_commands_of_its_results_compose() -> None:
    """These take minutes to hours and other data; that they are valid is what is tested."""
    count = 0
    for line in "\n".join(blocks("console")).splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        if words[:2] != ["nmt", "train"]:
            continue
        arguments = cli.parse("train", words[2:])
        if "-m" in arguments.flags:
            assert multirun.plan(arguments.words).swept
        else:
            compose.compose(arguments.words, arguments.config)
        count += 1
    assert count >= 4
