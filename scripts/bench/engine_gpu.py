"""Our own training on a GPU: the engine of this project with a made-up corpus, and checks.

Sentences have the lengths of news text (about 25 tokens, few above 80), ids are random: speed does
not depend on what they say.
"""

from __future__ import annotations

from typing import Any

import engine_nmt
import numpy as np
import torch
from engine_nmt import Training, described, now
from worker import clock, serve

from nmt import compose
from nmt.data.batching import TrainingPairs
from nmt.data.store import Ragged
from nmt.data.tokenizer import BOS, EOS, PAD
from nmt.models.build import build_model

SIDE = 8_192
"""Rows and columns of the product whose rate stands for the machine's."""


def made_up(pairs: int, vocabulary: int, rng: np.random.Generator) -> Ragged:
    """Random sentences with the lengths of news text."""
    lengths = np.clip(rng.lognormal(3.2, 0.5, pairs), 3, 120).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return Ragged(rng.integers(4, vocabulary, offsets[-1], dtype=np.int32), offsets, lengths)


def begin_made_up(
    words: list[str], vocabulary: int, pairs: int, cycle: int, device: str
) -> dict[str, Any]:
    """A model of these words on a device, with a corpus of its own."""
    torch.backends.cuda.matmul.allow_tf32 = False
    config = compose.compose(words)
    rng = np.random.default_rng(0)
    corpus = TrainingPairs(
        source=made_up(pairs, vocabulary, rng),
        target=made_up(pairs, vocabulary, rng),
        batch_tokens=config.train.batch_tokens,
        pool=config.train.pool,
        seed=1,
        pad=PAD,
        bos=BOS,
        eos=EOS,
    )
    torch.manual_seed(1)
    model = build_model(config.model, config.attention, vocabulary, vocabulary).to(device)
    now["training"] = Training(config, model, corpus, cycle)
    return described(now["training"])


def learned(updates: int) -> dict[str, Any]:
    """Loss a target token at each of the next updates, which are made."""
    training, found = now["training"], []
    for _ in range(updates):
        update = training.next()
        training.learn(update)
        found.append(training.learner.take_sums()[0] / update.target_tokens)
    return {"losses": found}


def synchronisations(updates: int) -> dict[str, Any]:
    """Whether the host waits for the GPU within an update: CUDA raises where it does."""
    training = now["training"]
    todo = [training.next() for _ in range(updates)]
    training.learn(todo[0])
    torch.cuda.set_sync_debug_mode("error")
    try:
        for update in todo:
            training.learn(update)
    except RuntimeError as error:
        return {"waits": str(error).partition("\n")[0]}
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return {"waits": ""}


def matrix_rate() -> dict[str, Any]:
    """One large bf16 product, many times: FLOP a second."""
    left, right = torch.randn(2, SIDE, SIDE, device="cuda", dtype=torch.bfloat16)
    times = 20
    with clock() as spent:
        for _ in range(times):
            left @ right
        torch.cuda.synchronize()
    return {"gflop": times * 2 * SIDE**3 / 1e9, "tokens": 0, **spent}


def gpu_memory() -> dict[str, Any]:
    """Most bytes ever allocated on the GPU, and its name."""
    return {
        "peak_bytes": torch.cuda.max_memory_allocated(),
        "name": torch.cuda.get_device_name(),
        "capability": torch.cuda.get_device_capability(),
        "cuda": torch.version.cuda,
    }


if __name__ == "__main__":
    serve(
        {
            "begin_made_up": begin_made_up,
            "learned": learned,
            "synchronisations": synchronisations,
            "matrix_rate": matrix_rate,
            "gpu_memory": gpu_memory,
            "train": engine_nmt.train,
            "record_products": engine_nmt.record_products,
            "run_products": engine_nmt.run_products,
        }
    )
