"""Training: real source and target tokens a second, against JoeyNMT and Hugging Face.

Three comparisons on Multi30k English-German with a joint vocabulary of 8,000: the Transformer
against both, on the same batches and, JoeyNMT, with its own loader; two LSTMs against JoeyNMT. The
matrix products of our own steps are run alone, in turn with everything else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from harness import Settings, Side, Worker, alternate, ratio, table

LANGUAGES = ["en", "de"]
BATCH_TOKENS = 4_096
TOLERANCE = 1e-4
"""Largest relative difference of the losses of two engines with the same weights."""


@dataclass(frozen=True)
class Case:
    """A model here and in JoeyNMT; ``transformer`` ones are also built in `transformers`."""

    words: list[str]
    joeynmt: dict[str, Any] = field(default_factory=lambda: {"kind": "transformer"})

    @property
    def transformer(self) -> bool:
        return self.joeynmt["kind"] == "transformer"


def _lstm(attention: str) -> dict[str, Any]:
    sizes = {"width": 512, "embedding": 256, "dropout": 0.3}
    return {"kind": "recurrent", "attention": attention, **sizes}


# MarianMTModel has norms behind the sub-layers only, JoeyNMT's LSTMs cannot tie their output layer.
CASES = {
    "transformer_small": Case(["model=transformer_small", "model.norm=post"]),
    "lstm bahdanau": Case(
        ["model=lstm", "model.tie=none", "attention=bahdanau"], _lstm("bahdanau")
    ),
    "lstm luong, fed": Case(
        ["model=lstm", "model.tie=none", "attention=luong_general", "attention.feeding=true"],
        _lstm("luong"),
    ),
}


def common_words(settings: Settings) -> list[str]:
    """Data, vocabulary and budget of every case."""
    return [
        "data=multi30k_en_de",
        "tokenizer.vocab_size=8000",
        f"train.batch_tokens={BATCH_TOKENS}",
        f"train.threads={settings.threads}",
    ]


def places(settings: Settings) -> dict[str, str]:
    return {"data.root": str(settings.data), "data.cache": str(settings.home / "prepared")}


def nmt_side(settings: Settings, case: Case, precision: str, cycle: int, updates: int) -> Side:
    """One of our own sides, ready to train."""
    worker = Worker(settings, "nmt", "engine_nmt")
    words = [*common_words(settings), *case.words, f"train.precision={precision}"]
    facts = worker.ask("begin_training", words=words, places=places(settings), cycle=cycle)
    return Side(f"nmt {precision}", worker, {"do": "train", "updates": updates}, facts)


def sides_of(settings: Settings, name: str, cycle: int, updates: int) -> list[Side]:
    """All engines of a case, with what they train on exported by the first."""
    case = CASES[name]
    folder = str(settings.home / "training" / name.replace(" ", "_").replace(",", ""))
    train = {"do": "train", "updates": updates}
    ours = [nmt_side(settings, case, precision, cycle, updates) for precision in ("bf16", "fp32")]
    ours[1].worker.ask("export_training", folder=folder)
    sides = list(ours)
    if case.transformer:
        for precision in ("fp32", "bf16"):
            worker = Worker(settings, "peers", "engine_huggingface")
            facts = worker.ask("begin_training", folder=folder, precision=precision)
            sides.append(Side(f"huggingface {precision}", worker, train, facts))
    for loader in ("same", "own"):
        worker = Worker(settings, "joeynmt", "engine_joeynmt")
        facts = worker.ask(
            "begin_training",
            folder=folder,
            languages=LANGUAGES,
            model=case.joeynmt,
            loader=loader,
            budget=BATCH_TOKENS // 2,
        )
        sides.append(Side(f"joeynmt {loader} batches", worker, train, facts))
    return sides


def parity(sides: list[Side], count: int) -> dict[str, float]:
    """Largest relative difference of each engine's losses from ours in fp32, before training.

    Raises:
        SystemExit: an engine computes something else.
    """
    reference = sides[1].worker.ask("losses", updates=count)["losses"]
    found = {}
    for side in sides[2:]:
        others = side.worker.ask("losses", updates=count)["losses"]
        found[side.name] = max(abs(a - b) / abs(a) for a, b in zip(reference, others, strict=True))
    if max(found.values()) > TOLERANCE:
        raise SystemExit(f"these losses should agree: {found}")
    return found


def products_of(side: Side, updates: int) -> Side:
    """The matrix products of one of our sides, as a side of its own."""
    facts = side.worker.ask("record_products", updates=updates)
    return Side(f"products of {side.name}", side.worker, {"do": "run_products"}, facts)


def measure_case(settings: Settings, name: str) -> dict[str, Any]:
    """One case, all engines in turns."""
    cycle, updates, rounds = (3, 1, 1) if settings.quick else (60, 6, settings.rounds)
    sides = sides_of(settings, name, cycle, updates)
    found: dict[str, Any] = {}
    if CASES[name].transformer:
        found["parity"] = parity(sides, min(cycle, 4))
    products = [products_of(side, updates) for side in sides[:2]]
    alternate([*sides, *products], rounds)
    found["sides"] = table(sides, ["tokens"], first="nmt bf16")
    found["ratios"] = {
        f"nmt {precision} / {side.name}": ratio(ours, side, "tokens")
        for ours, precision in zip(sides[:2], ("bf16", "fp32"), strict=True)
        for side in sides[2:]
    }
    for alone, side in zip(products, sides[:2], strict=True):
        found[alone.name] = {
            "share": ratio(side, alone, "tokens"),
            "gflop_per_second": table([alone], ["gflop"], alone.name)[alone.name][
                "gflop_per_second"
            ],
        }
    for side in sides:
        side.worker.close()
    return found


def measure(settings: Settings, report: Callable[[str], None]) -> dict[str, Any]:
    """All cases."""
    found = {}
    for name in CASES:
        report(f"training {name}")
        found[name] = measure_case(settings, name)
    return {"batch_tokens": BATCH_TOKENS, "cases": found}
