"""JoeyNMT as an engine: its own model, trainer, loader and search; nothing of it is changed.

Its ids of padding and unknown are the other way round (unknown is always 0), so that ids 0 and 1
are swapped on the way in and out. Of an exported model two values are set that no setting reaches:
the bias of the output layer, which JoeyNMT builds without one, and the table of positions, where
sines and cosines alternate. Both are parameters or buffers; the code runs as it is.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import export
import numpy as np
import torch
from joeynmt.batch import Batch
from joeynmt.config import parse_global_args, set_validation_args
from joeynmt.model import Model, build_model
from joeynmt.prediction import prepare
from joeynmt.search import search
from joeynmt.training import TrainManager
from joeynmt.vocabulary import Vocabulary
from torch import Tensor, nn
from worker import clock, serve

UNK, PAD, BOS, EOS = 0, 1, 2, 3
SPECIALS = {"unk_id": UNK, "pad_id": PAD, "bos_id": BOS, "eos_id": EOS}
CPU = torch.device("cpu")

now: dict[str, Any] = {}


def swapped(ids: np.ndarray) -> np.ndarray:
    """Our ids as JoeyNMT's, or the other way."""
    return np.where(ids < 2, 1 - ids, ids)


def transformer(shape: dict[str, Any], dropout: float) -> dict[str, Any]:
    """The model section for an exported shape."""
    sides = {
        side: {
            "type": "transformer",
            "num_layers": shape[f"{side}_layers"],
            "num_heads": shape["heads"],
            "embeddings": {"embedding_dim": shape["width"], "scale": True, "dropout": dropout},
            "hidden_size": shape["width"],
            "ff_size": shape["ffn"],
            "dropout": dropout,
            "layer_norm": shape["norm"],
        }
        for side in ("encoder", "decoder")
    }
    return {"tied_embeddings": True, "tied_softmax": True, "bias_initializer": "zeros", **sides}


def recurrent(attention: str, width: int, embedding: int, dropout: float) -> dict[str, Any]:
    """One bidirectional and one unidirectional LSTM layer; attention is bahdanau or luong."""
    embeddings = {"embedding_dim": embedding, "dropout": dropout}
    common = {"rnn_type": "lstm", "num_layers": 1, "embeddings": embeddings, "dropout": dropout}
    return {
        "encoder": {
            **common,
            "type": "recurrent",
            "hidden_size": width // 2,
            "bidirectional": True,
        },
        "decoder": {
            **common,
            "type": "recurrent",
            "hidden_size": width,
            "hidden_dropout": dropout,
            "attention": attention,
            "input_feeding": True,
            "init_hidden": "bridge",
        },
    }


def settings(folder: Path, languages: list[str], model: dict[str, Any], budget: int) -> Any:
    """What JoeyNMT makes of its configuration file."""
    sides = {
        side: {
            "lang": language,
            "level": "bpe",
            "tokenizer_type": "sentencepiece",
            "tokenizer_cfg": {"model_file": str(folder / "joint.model")},
            "voc_file": str(folder / "vocab.txt"),
        }
        for side, language in zip(("src", "trg"), languages, strict=True)
    }
    training = {
        "normalization": "tokens",
        "loss": "crossentropy",
        "label_smoothing": 0.1,
        "optimizer": "adam",
        "adam_betas": [0.9, 0.98],
        "learning_rate": 1e-4,
        "scheduling": "warmupinversesquareroot",
        "learning_rate_warmup": 4000,
        "clip_grad_norm": 1.0,
        "batch_type": "token",
        "batch_size": budget,
    }
    config = {
        "name": "bench",
        "model_dir": tempfile.mkdtemp(),
        "use_cuda": False,
        "data": {
            "dataset_type": "plain",
            "train": str(folder / "train"),
            "dev": str(folder / "dev"),
            "special_symbols": dict(SPECIALS),
            **sides,
        },
        "normalization": "tokens",
        "training": training,
        "testing": {},
        "model": model,
    }
    return parse_global_args(config, rank=0, mode="train")


def begin_training(
    folder: str,
    languages: list[str],
    model: dict[str, Any],
    loader: str,
    budget: int,
) -> dict[str, Any]:
    """Build a trainer as `joeynmt train` does.

    Args:
        folder: what engine_nmt.py exported.
        model: ``{"kind": "transformer"}`` (its weights are put) or the arguments of `recurrent`.
        loader: ``own``, or ``same`` for the exported batches.
        budget: its batch_size: rows x longest side, padding counted, of its own batches.
    """
    path = Path(folder)
    kind, arguments = model.pop("kind"), model
    weights, shape = export.read(folder) if kind == "transformer" else ({}, {})
    section = transformer(shape, shape["dropout"]) if shape else recurrent(**arguments)
    args = settings(path, languages, section, budget)
    built, data, _, _ = prepare(args, rank=0, mode="train")
    if shape:
        put(built, weights, shape, bias=False)
    now["trainer"] = TrainManager(
        rank=0,
        model=built,
        model_dir=args.model_dir,
        device=CPU,
        n_gpu=args.n_gpu,
        num_workers=args.num_workers,
        autocast=args.autocast,
        seed=args.seed,
        train_args=args.train,
        dev_args=set_validation_args(args.test),
    )
    now["batches"] = own_batches(args, data) if loader == "own" else same_batches(path)
    now["folder"], now["vocabulary"] = path, len(built.trg_vocab)
    return {
        "parameters": sum(p.numel() for p in built.parameters()),
        "precision": "fp32",
        "loader": loader,
        "version": f"joeynmt {args.joeynmt_version}, torch {torch.__version__}",
    }


def own_batches(args: Any, data: Any) -> Iterator[Batch]:
    """What its training loop iterates over, epoch after epoch."""
    iterator = data.make_iter(
        batch_size=args.train.batch_size,
        batch_type=args.train.batch_type,
        seed=args.seed,
        shuffle=args.train.shuffle,
        num_workers=args.num_workers,
        device=CPU,
        eos_index=EOS,
        pad_index=PAD,
    )
    for epoch in count(1):
        data.seed = args.seed + epoch
        iterator.batch_sampler.set_seed(args.seed + epoch)
        yield from iterator


def same_batches(folder: Path) -> Iterator[Batch]:
    """The exported batches, over and over; tensors are made beforehand, `Batch` at each step."""
    with np.load(folder / "batches.npz") as stored:
        number = len(stored.files) // 2
        arrays = [(stored[f"source_{i}"], stored[f"target_{i}"]) for i in range(number)]
    tensors = [tuple(torch.from_numpy(swapped(a)) for a in pair) for pair in arrays]
    while True:
        for source, target in tensors:
            begin = torch.full((len(target), 1), BOS)
            yield to_batch(source, torch.cat([begin, target], 1))


def to_batch(source: Tensor, target: Tensor | None) -> Batch:
    """Padded ids as JoeyNMT's own."""
    return Batch(
        src=source,
        src_length=(source != PAD).sum(1),
        src_prompt_mask=None,
        trg=target,
        trg_prompt_mask=None,
        indices=torch.arange(len(source)),
        device=CPU,
        pad_index=PAD,
        eos_index=EOS,
        is_train=target is not None,
    )


def put(model: Model, weights: export.Weights, shape: dict[str, Any], *, bias: bool) -> None:
    """Give a model the exported weights, as training needs them or, with the bias, decoding."""
    state = {name: torch.from_numpy(a) for name, a in export.to_joeynmt(weights, shape).items()}
    output_bias = state.pop("decoder.output_layer.bias")
    for side in ("encoder", "decoder"):
        table = torch.from_numpy(export.sinusoids(shape["width"]))[None]
        getattr(model, side).pe.pe = table
        state[f"{side}.pe.pe"] = table
    model.load_state_dict(state)
    if bias:
        model.decoder.output_layer.bias = nn.Parameter(output_bias)


def train(updates: int) -> dict[str, Any]:
    """The body of TrainManager.train_and_validate, without logging and validation."""
    trainer, tokens = now["trainer"], 0
    with clock() as spent:
        for _ in range(updates):
            batch = next(now["batches"])
            trainer._train_step(batch)
            trainer.clip_grad_fun(parameters=trainer.model.parameters())
            trainer.optimizer.step()
            trainer.scheduler.step(trainer.stats.steps)
            trainer.model.zero_grad()
            trainer.stats.steps += 1
            tokens += int(batch.src_mask.sum()) + batch.ntokens
    return {"tokens": tokens, **spent}


def losses(updates: int) -> dict[str, Any]:
    """Negative log-likelihood of the first exported batches, without dropout."""
    model = now["trainer"].model
    smoothed, model.loss_function = model.loss_function, ("crossentropy", 0.0)
    model.eval()
    batches = same_batches(now["folder"])
    with torch.no_grad():
        found = [float(model(return_type="loss", **vars(next(batches)))[0]) for _ in range(updates)]
    model.train()
    model._loss_function = smoothed
    return {"losses": found}


def begin_decoding(folder: str, precision: str) -> dict[str, Any]:
    """The exported model in eval mode; fp32 is all there is on a CPU."""
    if precision != "fp32":
        raise ValueError("JoeyNMT computes in fp32 on a CPU")
    weights, shape = export.read(folder)
    names = {"unk_token": "<unk>", "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    special = SimpleNamespace(**SPECIALS, **names, sep_id=None, sep_token=None, lang_tags=[])
    vocabulary = Vocabulary([str(number) for number in range(4, shape["vocab"])], special)
    model = build_model(transformer(shape, 0.0), src_vocab=vocabulary, trg_vocab=vocabulary)
    put(model, weights, shape, bias=True)
    now["model"] = model.eval()
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "precision": precision,
        "version": f"joeynmt 2.3.0, torch {torch.__version__}",
    }


def padded(rows: list[list[int]]) -> Tensor:
    """Swapped ids with end tokens [B, S]."""
    longest = max(map(len, rows)) + 1
    filled = [[*row, EOS] + [export.PAD] * (longest - len(row) - 1) for row in rows]
    return torch.from_numpy(swapped(np.array(filled)))


def decode(batches: list[list[list[int]]], beam: int, limit: int) -> dict[str, Any]:
    """Translate batches of source ids; ``beam_alpha=0`` is no length penalty."""
    hypotheses = []
    with clock() as spent:
        for rows in batches:
            found, _, _ = search(
                model=now["model"],
                batch=to_batch(padded(rows), None),
                max_output_length=limit + 1,
                beam_size=beam,
                beam_alpha=0,
                n_best=1,
            )
            hypotheses += [cut(row) for row in swapped(found.astype(np.int64)).tolist()]
    tokens = sum(len(ids) + 1 for ids in hypotheses)
    return {"hypotheses": hypotheses, "sentences": len(hypotheses), "tokens": tokens, **spent}


def cut(ids: list[int]) -> list[int]:
    """What comes before the end token."""
    return ids[: ids.index(EOS)] if EOS in ids else ids


def score(sources: list[list[int]], targets: list[list[int]]) -> dict[str, Any]:
    """Log-probability of each target with its end."""
    model, found = now["model"], []
    model.loss_function = ("crossentropy", 0.0)
    for source, target in zip(sources, targets, strict=True):
        out = torch.from_numpy(swapped(np.array([[BOS, *target, EOS]])))
        with torch.no_grad():
            loss = model(return_type="loss", **vars(to_batch(padded([source]), out)))[0]
        found.append(-float(loss))
    return {"log_probs": found}


if __name__ == "__main__":
    serve(
        {
            "begin_training": begin_training,
            "train": train,
            "losses": losses,
            "begin_decoding": begin_decoding,
            "decode": decode,
            "score": score,
        }
    )
