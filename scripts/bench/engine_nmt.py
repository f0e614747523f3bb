"""This project as an engine for the benchmarks: see worker.py for how it is spoken to."""

from __future__ import annotations

import json
import os
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from products import Product, Products, Recorder
from worker import clock, serve

from nmt import compose
from nmt.allocator import heap_kept, remember_few_shapes
from nmt.commands.train import training_pairs
from nmt.config import Config
from nmt.data.batching import Epoch, TrainingPairs
from nmt.data.prepare import prepare
from nmt.data.prepared import Prepared
from nmt.data.tokenizer import BOS, EOS, PAD, UNK
from nmt.decoding.parallel import side_by_side
from nmt.decoding.search import SearchOptions, search
from nmt.decoding.translate import batch_of, computing, inference, score_ids
from nmt.models.build import count_parameters
from nmt.models.seq2seq import Seq2Seq, Source
from nmt.runs import empty_model, open_run
from nmt.training.distributed import World
from nmt.training.learner import Learner, Update, resolve_precision
from nmt.training.optim import make_optimizer

RATE = 1e-4


class Training:
    """A model, its optimiser and an epoch of batches; ``place`` is the next update."""

    def __init__(self, config: Config, model: Seq2Seq, pairs: TrainingPairs, cycle: int) -> None:
        self.config = config
        self.model = model
        self.world = World(device=next(model.parameters()).device)
        self.learner = Learner(
            model,
            make_optimizer(
                config.optim.name.value,
                model,
                betas=(config.optim.beta1, config.optim.beta2),
                eps=config.optim.eps,
                weight_decay=config.optim.weight_decay,
            ),
            world=self.world,
            label_smoothing=config.train.label_smoothing,
            clip=config.optim.clip,
            precision=resolve_precision(config.train.precision.value, self.world.device),
            ema=config.train.ema,
            compile=config.train.compile,
        )
        self.epoch = pairs.epoch(0)
        self.cycle = min(cycle, len(self.epoch.plan))
        self.place = 0
        remember_few_shapes()  # both to the end of the process, as in `nmt train`
        self.kept = ExitStack()
        self.kept.enter_context(heap_kept())
        self.model.train()

    @classmethod
    def on_corpus(cls, words: list[str], places: dict[str, str], cycle: int) -> Training:
        """What `nmt train` with these words would train; places are data.root and data.cache."""
        config = compose.compose(words, None, places)
        if config.train.threads:
            torch.set_num_threads(config.train.threads)
        prepared = prepare(config.data, config.tokenizer, report=lambda line: None)
        torch.manual_seed(config.seed)
        model = empty_model(config, prepared.tokenizers)
        return cls(config, model, training_pairs(config, prepared, model), cycle)

    def next(self) -> Update:
        """The update at the current place; after ``cycle`` of them the first comes again."""
        position = self.place % self.cycle
        self.place += 1
        pairs = self.epoch.plan[position]
        return Update(0, [(position, pairs)], self.epoch.target_tokens(pairs))

    def learn(self, update: Update) -> None:
        """One update, by the arithmetic of `nmt train`."""
        self.learner.learn(self.epoch, update, seed=1, step=self.place, rate=RATE)

    def tokens(self, update: Update) -> int:
        """Real source and target tokens."""
        return sum(self.epoch.tokens(pairs)[0] for _, pairs in update.micro_batches)


now: dict[str, Any] = {}
"""What the process holds: `Training` and the products of its updates, or an opened run."""


def begin_training(words: list[str], places: dict[str, str], cycle: int) -> dict[str, Any]:
    """Build what ``words`` say; updates run over the first ``cycle`` batches of epoch 0."""
    now["training"] = training = Training.on_corpus(words, places, cycle)
    return described(training)


def described(training: Training) -> dict[str, Any]:
    """What is trained."""
    return {
        "parameters": count_parameters(training.model).total,
        "precision": str(training.learner.precision).removeprefix("torch."),
        "version": f"torch {torch.__version__}",
        "batches": training.cycle,
    }


def train(updates: int) -> dict[str, Any]:
    """Go on by some updates."""
    training = now["training"]
    todo = [training.next() for _ in range(updates)]
    with clock() as spent:
        for update in todo:
            training.learn(update)
        training.learner.take_sums()
    return {"tokens": sum(map(training.tokens, todo)), **spent}


def record_products(updates: int) -> dict[str, Any]:
    """Write down the matrix products of the next updates; `run_products` runs them alone."""
    training, found = now["training"], Counter[Product]()
    todo = [training.next() for _ in range(updates)]
    for update in todo:
        with Recorder() as recorder:
            training.learn(update)
        found += recorder.found
    now["products"] = Products(found, training.world.device)
    now["tokens"] = sum(map(training.tokens, todo))
    return {"flop": now["products"].flop, "tokens": now["tokens"], "kinds": len(found)}


def run_products() -> dict[str, Any]:
    """The recorded products once."""
    with clock() as spent:
        now["products"].run()
    return {"tokens": now["tokens"], "gflop": now["products"].flop / 1e9, **spent}


def losses(updates: int) -> dict[str, Any]:
    """Negative log-likelihood of the first batches as the model is, without dropout."""
    training = now["training"]
    training.model.eval()
    found = []
    with torch.no_grad():
        for pairs in training.epoch.plan[:updates]:
            found.append(float(training.learner.objective(training.epoch.batch(pairs))[1]))
    training.model.train()
    return {"losses": found}


def export_training(folder: str) -> dict[str, Any]:
    """Write the batches, the model as it is, the texts and the vocabulary for other engines."""
    training, path = now["training"], Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    config = training.config
    prepared = prepare(config.data, config.tokenizer, report=lambda line: None)
    export_batches(training.epoch, training.cycle, path / "batches.npz")
    export_texts(prepared, path)
    if config.model.kind == "transformer":
        export_model(training.model, config, path)
    return {"folder": folder, "vocabulary": prepared.tokenizers.source.size}


def export_batches(epoch: Epoch, count: int, file: Path) -> None:
    """``source_N`` [B, S] and ``target_N`` [B, T]: padded ids that end in the end token."""
    arrays = {}
    for number, pairs in enumerate(epoch.plan[:count]):
        batch = epoch.batch(pairs)
        arrays[f"source_{number}"] = batch.source_BS.numpy()
        arrays[f"target_{number}"] = batch.target_out_BT.numpy()
    np.savez(file, **arrays)


def export_texts(prepared: Prepared, folder: Path) -> None:
    """train and dev as plain text, joint.model, and vocab.txt with a piece a line."""
    tokenizer = prepared.tokenizers.source
    for name, store in (("train", prepared.train), ("dev", prepared.valid)):
        sides = (store.source_texts(), store.target_texts())
        for language, texts in zip(prepared.manifest["languages"], sides, strict=True):
            text = "".join(f"{' '.join(line.split())}\n" for line in texts)
            (folder / f"{name}.{language}").write_text(text, "utf-8")
    tokenizer.save(folder / "joint.model")
    pieces = tokenizer.pieces(range(tokenizer.size))
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces), "utf-8")


def export_model(model: Seq2Seq, config: Config, folder: Path) -> None:
    """weights.npz and shape.json, see export.py.

    Raises:
        ValueError: a model that the other engines cannot express.
    """
    settings = config.model
    expressible = {
        "kind": settings.kind == "transformer",
        "attention": config.attention.preset == "full",
        "tie": settings.tie == "all",
        "positions": settings.positions == "sinusoidal",
        "activation": settings.activation == "relu",
        "head_width": settings.head_width is None,
    }
    if not all(expressible.values()):
        raise ValueError(f"other engines lack this model's {expressible}")
    state = {name: tensor.float().cpu().numpy() for name, tensor in model.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "weights.npz", **state)
    shape = {
        "vocab": model.target_vocab,
        "width": settings.width,
        "ffn": settings.ffn,
        "heads": settings.heads,
        "encoder_layers": settings.encoder_layers,
        "decoder_layers": settings.decoder_layers,
        "norm": settings.norm.value,
        "dropout": settings.dropout,
        "label_smoothing": config.train.label_smoothing,
    }
    (folder / "shape.json").write_text(json.dumps(shape), "utf-8")


def begin_decoding(run: str, precision: str) -> dict[str, Any]:
    """Open a run's best checkpoint, for as many threads as the other engines get."""
    words = [f"train.threads={os.environ['OMP_NUM_THREADS']}"]
    words += [] if precision == "fp32" else [f"train.precision={precision}"]
    now["run"] = open_run(Path(run), words=words)
    return {
        "parameters": count_parameters(now["run"].model).total,
        "precision": precision,
        "version": f"torch {torch.__version__}",
        "checkpoint": now["run"].checkpoint,
    }


def export_decoding(folder: str) -> dict[str, Any]:
    """The opened run's weights for other engines."""
    export_model(now["run"].model, now["run"].config, Path(folder))
    return {"folder": folder}


def decode(batches: list[list[list[int]]], beam: int, limit: int) -> dict[str, Any]:
    """Translate batches of source ids (without the end token); at most ``limit`` tokens each.

    Batches side by side, as `nmt translate` does it; single sentences one after the other.
    """
    run = now["run"]
    options = SearchOptions(
        beam=beam,
        length_penalty=0.0,
        min_length=1,
        max_length=limit,
        max_length_ratio=float(limit),
    )
    with clock() as spent, inference(run.model, run.precision) as device:

        def find(rows: list[list[int]]) -> list[list[int]]:
            batch = batch_of(rows, [()] * len(rows)).to(device)
            source = Source(batch.source_BS, batch.source_keep_BS)
            with computing(device, run.precision):
                found = search(run.model, source, options, pad=PAD, unk=UNK, bos=BOS, eos=EOS)
            return [best[0].ids for best in found]

        alone = len(batches[0]) == 1
        found = map(find, batches) if alone else side_by_side(find, batches, device)
        hypotheses = [ids for rows in found for ids in rows]
    return answer(hypotheses, spent)


def answer(hypotheses: list[list[int]], spent: dict[str, float]) -> dict[str, Any]:
    """Hypotheses with how many sentences and tokens (end tokens counted) they are."""
    tokens = sum(len(ids) + 1 for ids in hypotheses)
    return {"hypotheses": hypotheses, "sentences": len(hypotheses), "tokens": tokens, **spent}


def score(sources: list[list[int]], targets: list[list[int]]) -> dict[str, Any]:
    """Log-probability of each target with its end."""
    run = now["run"]
    scores = score_ids(run.model, sources, targets, precision=run.precision)
    return {"log_probs": [found.log_prob for found in scores]}


if __name__ == "__main__":
    serve(
        {
            "begin_training": begin_training,
            "train": train,
            "record_products": record_products,
            "run_products": run_products,
            "losses": losses,
            "export_training": export_training,
            "begin_decoding": begin_decoding,
            "export_decoding": export_decoding,
            "decode": decode,
            "score": score,
        }
    )
