from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "toy_training", Path(__file__).with_name("toy.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def toy() -> ModuleType:
    return _load()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
