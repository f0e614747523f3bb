"""Decoding: sentences and target tokens a second with the same weights in every engine.

test_2016_flickr, sorted by length, in batches of 40 and one sentence at a time; ids in, ids out.
No length penalty anywhere, one limit for all. Before anything is timed, log-probabilities of the
references have to agree, and so must most greedy translations; BLEU is there as a check.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import Settings, Side, Worker, alternate, ratio, table
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest

from nmt import compose
from nmt.cli import main as nmt
from nmt.data.tokenizer import Tokenizers

LIMIT = 100
"""Most target tokens of a sentence."""
TOLERANCE = 1e-4
"""Largest difference of a reference's log-probability, in nats a token."""
EQUAL = 0.97
"""Smallest share of greedy translations that are the same as ours in fp32."""

Batches = list[list[list[int]]]


@dataclass(frozen=True)
class Mode:
    """How to decode: ``every`` N-th sentence of the test set."""

    beam: int
    rows: int
    every: int = 1

    def __str__(self) -> str:
        how = "greedy" if self.beam == 1 else f"beam {self.beam}"
        return f"{how}, {f'batches of {self.rows}' if self.rows > 1 else 'one at a time'}"


MODES = (Mode(5, 40, every=3), Mode(1, 40), Mode(5, 1, every=20), Mode(1, 1, every=20))


@dataclass(frozen=True)
class Material:
    """The test set as text, and the vocabulary of the run."""

    sources: list[str]
    references: list[str]
    tokenizers: Tokenizers

    def batches(self, mode: Mode, count: int) -> tuple[Batches, list[int]]:
        """Ids by falling length, and the number of each sentence in that order."""
        chosen = list(range(count))[:: mode.every]
        ids = self.tokenizers.source.encode([self.sources[i] for i in chosen])
        order = sorted(range(len(chosen)), key=lambda place: -len(ids[place]))
        rows = [ids[place] for place in order]
        cut = [rows[start : start + mode.rows] for start in range(0, len(rows), mode.rows)]
        return cut, [chosen[place] for place in order]

    def bleu(self, hypotheses: list[list[int]], numbers: list[int]) -> float:
        """Cased, detokenised sacreBLEU, without an interval."""
        given = [[self.references[number] for number in numbers]]
        return float(BLEU().corpus_score(self.texts(hypotheses), given).score)

    def texts(self, hypotheses: list[list[int]]) -> list[str]:
        return [self.tokenizers.target.decode(ids) for ids in hypotheses]

    def lost(self, first: list[list[int]], second: list[list[int]], numbers: list[int]) -> Any:
        """BLEU that the second loses, and the p-value of a paired bootstrap (Koehn 2004)."""
        metric = BLEU(references=[[self.references[number] for number in numbers]])
        systems = [("first", self.texts(first)), ("second", self.texts(second))]
        test = PairedTest(systems, {"BLEU": metric}, None, test_type="bs", n_samples=1000)
        before, after = test()[1]["BLEU"]
        return {"bleu": before.score - after.score, "p": after.p_value}


def read_material(settings: Settings, run: Path) -> Material:
    """The test set in the languages of the run."""
    config = compose.load(run / "config.yaml").data
    languages = config.languages.split("-")
    sides = []
    for language in reversed(languages) if config.reverse else languages:
        file = settings.data / "multi30k" / f"test_2016_flickr.{language}.gz"
        text = gzip.decompress(file.read_bytes()).decode("utf-8")
        sides.append(text.rstrip("\n").split("\n"))
    return Material(sides[0], sides[1], Tokenizers.load(run / "tokenizer"))


def trained_run(settings: Settings, report: Callable[[str], None]) -> Path:
    """The run that was named, or the preset's, which is trained where it is not there yet."""
    if settings.run is not None:
        return settings.run
    run = settings.home / "runs" / "multi30k_transformer"
    if not (run / "checkpoints" / "index.json").exists():
        report(f"training {run}: 40 minutes; --run names a trained one")
        words = ["experiment=multi30k_transformer", f"data.root={settings.data}"]
        cache = f"data.cache={settings.home / 'prepared'}"
        if nmt(["train", f"run={run}", *words, cache]):
            raise SystemExit("training was interrupted; the same command goes on")
    return run


def sides_of(settings: Settings, run: Path) -> list[Side]:
    """Every engine with the weights of the run; the first is ours in fp32."""
    folder = str(settings.home / "decoding" / run.name)
    workers = [
        (engine, precision, Worker(settings, environment, f"engine_{engine}"))
        for environment, engine, precision in (
            ("nmt", "nmt", "fp32"),
            ("nmt", "nmt", "bf16"),
            ("peers", "huggingface", "fp32"),
            ("peers", "huggingface", "bf16"),
            ("peers", "ctranslate2", "fp32"),
            ("peers", "ctranslate2", "fp32 side by side"),
            ("peers", "ctranslate2", "int8"),
            ("joeynmt", "joeynmt", "fp32"),
        )
    ]
    sides = []
    for engine, precision, worker in workers:
        what: dict[str, Any] = {"run": str(run)} if engine == "nmt" else {"folder": folder}
        kind, _, together = precision.partition(" ")
        what |= {"side_by_side": True} if together else {}
        facts = worker.ask("begin_decoding", precision=kind, **what)
        if not sides:
            worker.ask("export_decoding", folder=folder)
        sides.append(Side(f"{engine} {precision}", worker, {}, facts))
    return sides


def parity(sides: list[Side], material: Material, count: int) -> dict[str, Any]:
    """How far each engine is from ours in fp32: log-probabilities and greedy translations.

    Raises:
        SystemExit: an engine in fp32 that computes something else.
    """
    sources = material.tokenizers.source.encode(material.sources[:count])
    targets = material.tokenizers.target.encode(material.references[:count])
    batches, _ = material.batches(Mode(1, 40), 4 * count)
    ours = sides[0].worker.ask("score", sources=sources, targets=targets)["log_probs"]
    greedy = sides[0].worker.ask("decode", batches=batches, beam=1, limit=LIMIT)["hypotheses"]
    found = {}
    for side in sides[1:]:
        theirs = side.worker.ask("score", sources=sources, targets=targets)["log_probs"]
        apart = max(
            abs(a - b) / (len(target) + 1)
            for a, b, target in zip(ours, theirs, targets, strict=True)
        )
        answer = side.worker.ask("decode", batches=batches, beam=1, limit=LIMIT)["hypotheses"]
        same = sum(a == b for a, b in zip(greedy, answer, strict=True)) / len(greedy)
        found[side.name] = {"log_prob_apart": apart, "greedy_equal": same}
        if "fp32" in side.name and (apart > TOLERANCE or same < EQUAL):
            raise SystemExit(f"{side.name} is another model: {found[side.name]}")
    return found


def measure_mode(
    settings: Settings, sides: list[Side], material: Material, mode: Mode
) -> dict[str, Any]:
    """One way of decoding, all engines in turns."""
    batches, numbers = material.batches(mode, 40 if settings.quick else len(material.sources))
    for side in sides:
        side.turns.clear()
        request = {"batches": batches, "beam": mode.beam, "limit": LIMIT}
        side.request = {"do": "decode", **request}
    alternate(sides, 1 if settings.quick else settings.rounds)
    found = table(sides, ["sentences", "tokens"], first="nmt fp32")
    for side in sides:
        found[side.name]["bleu"] = material.bleu(side.turns[-1]["hypotheses"], numbers)
    ratios = {
        f"{ours.name} / {side.name}": ratio(ours, side, "sentences")
        for ours in sides[:2]
        for side in sides[2:]
    }
    return {"sentences": len(numbers), "sides": found, "ratios": ratios}


def lost_in_bf16(settings: Settings, sides: list[Side], material: Material) -> dict[str, Any]:
    """BLEU of our own bf16 against fp32 on the whole test set, beam 5."""
    count = 40 if settings.quick else len(material.sources)
    batches, numbers = material.batches(Mode(5, 40), count)
    request = {"batches": batches, "beam": 5, "limit": LIMIT}
    both = [side.worker.ask("decode", **request)["hypotheses"] for side in sides[:2]]
    lost: dict[str, Any] = material.lost(*both, numbers)
    return {"sentences": len(numbers), "fp32": material.bleu(both[0], numbers), **lost}


def measure(settings: Settings, report: Callable[[str], None]) -> dict[str, Any]:
    """Parity first, then every mode."""
    run = trained_run(settings, report)
    material = read_material(settings, run)
    sides = sides_of(settings, run)
    found: dict[str, Any] = {"run": run.name, "limit": LIMIT}
    found["parity"] = parity(sides, material, 10 if settings.quick else 50)
    report(f"decoding, parity: {found['parity']}")
    found["lost_in_bf16"] = lost_in_bf16(settings, sides, material)
    found["modes"] = {}
    for mode in MODES:
        report(f"decoding, {mode}")
        found["modes"][str(mode)] = measure_mode(settings, sides, material, mode)
    for side in sides:
        side.worker.close()
    return found
