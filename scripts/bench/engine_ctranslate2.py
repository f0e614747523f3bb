"""CTranslate2 as an engine: decoding only."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import ctranslate2
import export
from worker import clock, serve

now: dict[str, Any] = {}


def begin_decoding(
    folder: str, precision: str, device: str = "cpu", side_by_side: bool = False
) -> dict[str, Any]:
    """Convert the exported model and open it.

    A batch has all threads, or ``side_by_side`` as many batches at once as there are threads.
    """
    threads = int(os.environ["OMP_NUM_THREADS"])
    path = Path(folder) / f"ctranslate2-{precision}"
    path.mkdir(exist_ok=True)
    weights, shape = export.read(folder)
    export.to_ctranslate2(weights, shape, str(path))
    compute = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}.get(precision, precision)
    now["translator"] = ctranslate2.Translator(
        str(path),
        device=device,
        compute_type=compute,
        inter_threads=threads if side_by_side else 1,
        intra_threads=1 if side_by_side else threads,
    )
    used = now["translator"].compute_type
    if not used.startswith(compute):  # int8 is called int8_float32
        raise ValueError(f"asked for {compute}, it computes in {used}")
    return {"precision": precision, "version": f"ctranslate2 {ctranslate2.__version__}"}


def words(rows: list[list[int]]) -> list[list[str]]:
    """Tokens are called by their numbers."""
    return [[str(number) for number in row] for row in rows]


def decode(batches: list[list[list[int]]], beam: int, limit: int) -> dict[str, Any]:
    """Translate batches of source ids."""
    alone = len(batches[0]) == 1
    with clock() as spent:
        found = []
        for rows in batches:
            answers = now["translator"].translate_batch(
                words([[*row, export.EOS] for row in rows]),
                beam_size=beam,
                length_penalty=0.0,
                max_decoding_length=limit + 1,
                max_input_length=0,
                return_scores=False,
                asynchronous=not alone,
            )
            found += answers
        results = found if alone else [answer.result() for answer in found]
        hypotheses = [[int(word) for word in best.hypotheses[0]] for best in results]
    tokens = sum(len(ids) + 1 for ids in hypotheses)
    return {"hypotheses": hypotheses, "sentences": len(hypotheses), "tokens": tokens, **spent}


def score(sources: list[list[int]], targets: list[list[int]]) -> dict[str, Any]:
    """Log-probability of each target with its end."""
    found = now["translator"].score_batch(
        words([[*row, export.EOS] for row in sources]), words(targets), max_input_length=0
    )
    return {"log_probs": [sum(one.log_probs) for one in found]}


if __name__ == "__main__":
    serve({"begin_decoding": begin_decoding, "decode": decode, "score": score})
