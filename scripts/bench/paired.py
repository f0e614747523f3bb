"""Paired significance of systems against the first: sacreBLEU's paired bootstrap, 1,000 samples.

python scripts/bench/paired.py references.fr.gz baseline.txt system.txt …
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest


def lines(path: Path) -> list[str]:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8", newline="\n") as file:
        rows = [line.rstrip("\n") for line in file]
    # a TSV test set: source, target
    return [row.split("\t")[1] for row in rows] if ".tsv" in path.suffixes else rows


def main(references: Path, *systems: Path) -> None:
    named = [(str(path), lines(path)) for path in systems]
    metrics = {"BLEU": BLEU(), "chrF2": CHRF()}
    test = PairedTest(named, metrics, [lines(references)], test_type="bs", n_samples=1_000)
    _, scores = test()
    for place, (name, _) in enumerate(named):
        found = [scores[metric][place] for metric in scores if metric != "System"]
        shown = [f"{one.score:.2f} ({one.mean:.2f} ± {one.ci:.2f}" for one in found]
        shown = [
            text + (")" if one.p_value is None else f", p = {one.p_value:.4f})")
            for text, one in zip(shown, found, strict=True)
        ]
        print(name, *shown, sep="\t")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
