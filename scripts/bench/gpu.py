"""`scripts/bench/gpu`: is a GPU right, and then how fast; see README.md.

First the checks, against the same program on the CPU: losses of a few fp32 updates, eager and
compiled; bf16 within its precision; greedy translations of a trained run. Nothing is timed unless
they hold. Then training (real tokens a second, share of the measured bf16 matrix rate, memory) for
three sizes with and without torch.compile, and decoding against CTranslate2 in fp16.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import decoding
import tables
from harness import (
    HERE,
    RESULTS,
    ROOT,
    Settings,
    Side,
    Worker,
    alternate,
    machine,
    rates,
    ratio,
    save,
    table,
)

SIZES = {"transformer_small": 32_768, "transformer_base": 32_768, "transformer_big": 16_384}
"""Padded tokens of an update."""
VOCABULARY = 32_000
UPDATES = 4
CLOSE = {"fp32": 1e-4, "bf16": 2e-2}
"""Largest relative difference of a loss from the CPU's in fp32."""
EQUAL = 0.97


def words_of(model: str, precision: str, *, compiled: bool, tokens: int) -> list[str]:
    """What `nmt train` would be told."""
    return [
        f"model={model}",
        f"train.precision={precision}",
        f"train.compile={str(compiled).lower()}",
        f"train.batch_tokens={tokens}",
    ]


def begun(settings: Settings, words: list[str], device: str, vocabulary: int, pairs: int) -> Worker:
    """An engine with a fresh model of these words."""
    worker = Worker(settings, "nmt", "engine_gpu")
    corpus = {"vocabulary": vocabulary, "pairs": pairs, "cycle": 60}
    worker.ask("begin_made_up", words=words, device=device, **corpus)
    return worker


def check_losses(settings: Settings) -> dict[str, Any]:
    """Losses of a few updates without dropout on the GPU, relative to the CPU's in fp32.

    Raises:
        SystemExit: they differ by more than their precision.
    """
    found: dict[str, Any] = {}
    reference: list[float] = []
    for device, precision, compiled in (
        ("cpu", "fp32", False),
        ("cuda", "fp32", False),
        ("cuda", "fp32", True),
        ("cuda", "bf16", False),
        ("cuda", "bf16", True),
    ):
        words = words_of("transformer_small", precision, compiled=compiled, tokens=4_096)
        worker = begun(settings, [*words, "model.dropout=0"], device, 8_000, 5_000)
        losses = worker.ask("learned", updates=UPDATES)["losses"]
        worker.close()
        reference = reference or losses
        apart = max(abs(a - b) / a for a, b in zip(reference, losses, strict=True))
        name = f"losses, {device} {precision}{' compiled' if compiled else ''}"
        found[name] = apart
        if apart > CLOSE[precision]:
            raise SystemExit(f"{name} are {losses}, on the CPU {reference}: nothing is timed")
    return found


def check_greedy(settings: Settings, run: Path, material: decoding.Material) -> float:
    """Share of greedy translations in fp32 that are the CPU's.

    Raises:
        SystemExit: too few are.
    """
    batches, _ = material.batches(decoding.Mode(1, 40), 200)
    answers = []
    for hidden in (True, False):  # a process that sees no GPU takes the CPU
        with_device = {"CUDA_VISIBLE_DEVICES": ""} if hidden else {}
        worker = Worker(settings, "nmt", "engine_nmt", with_device)
        worker.ask("begin_decoding", run=str(run), precision="fp32")
        request = {"batches": batches, "beam": 1, "limit": decoding.LIMIT}
        answers.append(worker.ask("decode", **request)["hypotheses"])
        worker.close()
    same = sum(a == b for a, b in zip(*answers, strict=True)) / len(answers[0])
    if same < EQUAL:
        raise SystemExit(f"only {same:.0%} of greedy translations are the CPU's: nothing is timed")
    return same


def training(settings: Settings, rounds: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Every size, eager and compiled in turns; and what the GPU is."""
    found: dict[str, Any] = {}
    updates = 3 if settings.quick else 30
    about: dict[str, Any] = {}
    for model, tokens in SIZES.items():
        sides = []
        for compiled in (False, True):
            words = words_of(model, "bf16", compiled=compiled, tokens=tokens)
            worker = begun(settings, words, "cuda", VOCABULARY, 200_000)
            name = f"{model}{', compiled' if compiled else ''}"
            waits = worker.ask("synchronisations", updates=3)["waits"]
            worker.ask("train", updates=updates)
            about = worker.ask("gpu_memory")  # before the products take their share
            facts = {"waits": waits, "updates": updates, "peak_bytes": about["peak_bytes"]}
            sides.append(Side(name, worker, {"do": "train", "updates": updates}, facts))
        eager = sides[0]
        recorded = eager.worker.ask("record_products", updates=updates)
        machine_rate = Side("rate", eager.worker, {"do": "matrix_rate"})
        alone = Side("products", eager.worker, {"do": "run_products"})
        alternate([*sides, machine_rate, alone], rounds)
        limit = rates(machine_rate, "gflop")["median"]
        for side in sides:
            speed = rates(side, "tokens")
            gflop = speed["median"] * recorded["flop"] / recorded["tokens"] / 1e9
            found[side.name] = {
                **side.facts,
                "tokens_per_second": speed,
                "share": gflop / limit,
                "share_of_own_products": ratio(side, alone, "tokens"),
                "rate_tflops": limit / 1e3,
            }
            side.worker.close()
    return found, about


def measure_decoding(settings: Settings, run: Path, material: decoding.Material) -> dict[str, Any]:
    """Ours in fp32 and bf16 against CTranslate2 in fp16: beam 5, batches of 40 and of 200."""
    folder = str(settings.home / "decoding" / run.name)
    sides = []
    for precision in ("bf16", "fp32"):
        worker = Worker(settings, "nmt", "engine_nmt")
        facts = worker.ask("begin_decoding", run=str(run), precision=precision)
        sides.append(Side(f"nmt {precision}", worker, {}, facts))
    sides[0].worker.ask("export_decoding", folder=folder)
    worker = Worker(settings, "peers", "engine_ctranslate2")
    facts = worker.ask("begin_decoding", folder=folder, precision="fp16", device="cuda")
    sides.append(Side("ctranslate2 fp16", worker, {}, facts))
    found = {}
    for rows in (40, 200):
        batches, numbers = material.batches(decoding.Mode(5, rows), len(material.sources))
        for side in sides:
            side.turns.clear()
            side.request = {"do": "decode", "batches": batches, "beam": 5, "limit": decoding.LIMIT}
        alternate(sides, 1 if settings.quick else settings.rounds)
        measured = table(sides, ["sentences", "tokens"], first="nmt bf16")
        for side in sides:
            bleu = material.bleu(side.turns[-1]["hypotheses"], numbers)
            found[f"{side.name}, batches of {rows}"] = {**measured[side.name], "bleu": bleu}
    for side in sides:
        side.worker.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench/gpu", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="a trained Multi30k Transformer")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--home", type=Path, default=os.environ.get("NMT_BENCH_HOME"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="tiny: is it right, not how fast")
    given = parser.parse_args()
    settings = Settings(
        home=(given.home or ROOT / ".bench").resolve(),
        data=given.data.resolve(),
        run=given.run.resolve(),
        rounds=given.rounds,
        threads=os.cpu_count() or 1,
        quick=given.quick,
    )
    before = machine(settings.threads)
    run = given.run.resolve()
    material = decoding.read_material(settings, run)
    checks = check_losses(settings)
    checks["greedy translations equal"] = check_greedy(settings, run, material)
    print(f"checks: {checks}", file=sys.stderr, flush=True)
    trained, about = training(settings, 1 if settings.quick else settings.rounds)
    found = {
        "checks": checks,
        "training": trained,
        "decoding": measure_decoding(settings, run, material),
    }
    save("gpu", settings, before | {"gpu": about["name"], **about}, found)
    if not settings.quick:
        tables.write(RESULTS, HERE / "RESULTS.md")


if __name__ == "__main__":
    main()
