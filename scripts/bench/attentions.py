"""One line of Markdown a run: scores, alignment error, size and speed, the speeds interleaved.

    python scripts/bench/attentions.py runs/mini_none_s1 runs/mini_bahdanau_s1 …

Training: forward, loss and backward over the same batches in the run's own precision; decoding:
beam 5 over the same sentences. Each is repeated in turns over all runs and the median is shown.
Scores come from scores.json, so `nmt evaluate run=… split=test` goes first.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from nmt.commands.train import training_pairs
from nmt.data.batching import Batch
from nmt.data.prepare import prepare
from nmt.models.build import count_parameters
from nmt.training.learner import Objective, resolve_precision
from nmt.training.loss import CrossLosses
from nmt.translator import Translator

ROUNDS, BATCHES, SENTENCES = 7, 8, 200


def train_seconds(translator: Translator, batches: list[Batch]) -> float:
    """Processor seconds of forward, loss and backward over the batches."""
    run = translator.run
    precision = resolve_precision(run.config.train.precision.value, run.device)
    smoothing = run.config.train.label_smoothing
    objective = Objective(run.model, smoothing, CrossLosses()).train()
    begin = time.process_time()
    for batch in batches:
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            loss, _ = objective(batch)
        loss.backward()
    run.model.zero_grad(set_to_none=True)
    run.model.eval()
    return time.process_time() - begin


def error_rate(path: Path) -> str:
    """Alignment error rate on the test set's gold, layer, head and row chosen on dev."""
    command = [sys.executable, "-m", "nmt", "align", f"run={path}", "split=test", "format=json"]
    done = subprocess.run(command, capture_output=True, text=True)
    return "–" if done.returncode else f"{100 * json.loads(done.stdout)['aer']:.1f}"


def score(path: Path) -> str:
    """BLEU with its interval, from the last record of the test set."""
    records = json.loads((path / "scores.json").read_text("utf-8"))
    (found,) = [r for r in records if r["split"] == "test"][-1:]
    bleu = found["scores"]["bleu"]
    return f"{bleu['score']:.1f} [{bleu['low']:.1f}, {bleu['high']:.1f}]"


def main(paths: list[Path]) -> None:
    torch.set_num_threads(1)
    runs = [Translator.load(path, words=["train.threads=1", "search.beam=5"]) for path in paths]
    config = runs[0].run.config
    prepared = prepare(config.data, config.tokenizer, report=lambda line: None)
    epoch = training_pairs(config, prepared, runs[0].run.model).epoch(0)
    batches = [epoch.batch(pairs) for pairs in epoch.plan[:BATCHES]]
    tokens = sum(epoch.tokens(pairs)[0] for pairs in epoch.plan[:BATCHES])
    sentences = prepared.sources("test")[:SENTENCES]
    train: dict[Path, list[float]] = {path: [] for path in paths}
    decode: dict[Path, list[float]] = {path: [] for path in paths}
    for _ in range(ROUNDS):
        for path, translator in zip(paths, runs, strict=True):
            train[path].append(tokens / train_seconds(translator, batches))
            begin = time.process_time()
            found = translator.translate(sentences)
            made = sum(len(t.ids) + 1 for t in found)
            decode[path].append(made / (time.process_time() - begin))
    print("| run | BLEU [95 %] | AER | parameters | training tok/s | decoding tok/s |")
    print("| --- | --- | --- | --- | --- | --- |")
    for path, translator in zip(paths, runs, strict=True):
        size = count_parameters(translator.run.model).total
        speeds = f"{statistics.median(train[path]):,.0f} | {statistics.median(decode[path]):,.0f}"
        print(f"| {path.name} | {score(path)} | {error_rate(path)} | {size:,} | {speeds} |")


if __name__ == "__main__":
    main([Path(word) for word in sys.argv[1:]])
