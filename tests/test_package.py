"""What is installed is what runs: the wheel outside the checkout, and what the sdist needs."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(argv: list[str], cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        argv, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist, built without a network."""
    folder = tmp_path_factory.mktemp("dist")
    run([sys.executable, "-m", "hatchling", "build", "-d", str(folder)], ROOT)
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    wheel = next(built.glob("*.whl"))
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet"]
    run([*pip, "--target", str(folder), str(wheel)], folder)
    return folder


@pytest.mark.slow
def test_the_wheel_carries_presets_and_lexicon(built: Path) -> None:
    names = zipfile.ZipFile(next(built.glob("*.whl"))).namelist()
    presets = [n for n in names if n.startswith("nmt/resources/configs/") and n.endswith(".yaml")]
    assert len(presets) == len(list((ROOT / "configs").rglob("*.yaml")))
    assert "nmt/resources/lexicon_en_fr.yaml" in names
    assert not [n for n in names if n.startswith(("tests", "scripts", "runs"))]


@pytest.mark.slow
def test_the_sdist_can_build_itself(built: Path, tmp_path: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        archive.extractall(tmp_path, filter="data")
    folder = next(tmp_path.iterdir())
    run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)], folder)
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    assert "nmt/resources/lexicon_en_fr.yaml" in names


@pytest.mark.slow
def test_the_wheel_runs_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    env = {"PYTHONPATH": str(installed), "NMT_CACHE": str(tmp_path / "cache")}
    nmt = [sys.executable, "-m", "nmt"]
    assert "nmt <command>" in run([*nmt, "--help"], tmp_path, **env).stdout
    where = run([sys.executable, "-c", "import nmt; print(nmt.__file__)"], tmp_path, **env).stdout
    assert where.startswith(str(installed))
    run([*nmt, "train", "debug=tiny", "run=runs/w"], tmp_path, **env)
    done = run([*nmt, "translate", "run=runs/w", "text=The dog sees the cat."], tmp_path, **env)
    assert done.stdout.count("\n") == 1
