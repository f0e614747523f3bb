"""What the tests of the whole program share: a run that was trained in seconds."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nmt import cli

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first, so that no worker ends alone with one; shared fixtures stay together."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished run of ten steps, never to be changed; its prepared data is in $NMT_CACHE."""
    folder = tmp_path_factory.mktemp("trained")
    before = os.environ.get("NMT_CACHE")
    os.environ["NMT_CACHE"] = str(folder / "cache")
    assert cli.main(["train", "debug=tiny", f"run={folder / 'run'}"]) == 0
    yield folder / "run"
    if before is None:
        del os.environ["NMT_CACHE"]
    else:
        os.environ["NMT_CACHE"] = before


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained run under a name that would break Hydra's grammar."""
    copy = tmp_path / "a run, (1) = [ü] ${x}"
    shutil.copytree(trained, copy)
    return copy
