"""Hugging Face `transformers` as an engine: MarianMTModel, or Pegasus where norms come first.

The two classes differ in the place of the norms alone; MarianMTModel has no pre-norm.
Training is the plain loop: forward, `F.cross_entropy`, clip, fused Adam.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import export
import numpy as np
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from worker import clock, serve

now: dict[str, Any] = {}


def build(folder: str, attention: str, dropout: float) -> nn.Module:
    """The exported model; ``attention`` is sdpa or eager."""
    weights, shape = export.read(folder)
    sides = {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in (
            ("layers", shape[f"{side}_layers"]),
            ("attention_heads", shape["heads"]),
            ("ffn_dim", shape["ffn"]),
        )
    }
    pre = shape["norm"] == "pre"
    config = (transformers.PegasusConfig if pre else transformers.MarianConfig)(
        **sides,
        vocab_size=shape["vocab"],
        d_model=shape["width"],
        max_position_embeddings=export.POSITIONS,
        activation_function="relu",
        dropout=dropout,
        attention_dropout=0.0,
        activation_dropout=0.0,
        scale_embedding=True,
        pad_token_id=export.PAD,
        bos_token_id=export.BOS,
        eos_token_id=export.EOS,
        decoder_start_token_id=export.BOS,
        forced_eos_token_id=None,
        attn_implementation=attention,
    )
    kind = transformers.PegasusForConditionalGeneration if pre else transformers.MarianMTModel
    model = kind(config)
    state = {
        name: torch.from_numpy(a) for name, a in export.to_hugging_face(weights, shape).items()
    }
    there = model.state_dict()
    missing = there.keys() - state.keys()
    if missing:
        raise ValueError(f"nothing exported for {missing}")
    model.load_state_dict({name: state[name] for name in there})
    model.generation_config.update(bad_words_ids=None, forced_eos_token_id=None)
    model.generation_config.pad_token_id = export.PAD
    return model


def begin_training(folder: str, precision: str, attention: str = "auto") -> dict[str, Any]:
    """The exported model and batches; ``attention=auto`` takes the faster of sdpa and eager."""
    _, shape = export.read(folder)
    now.update(precision=precision, place=0, smoothing=shape["label_smoothing"])
    with np.load(f"{folder}/batches.npz") as stored:
        count = len(stored.files) // 2
        now["batches"] = [
            to_batch(stored[f"source_{i}"], stored[f"target_{i}"]) for i in range(count)
        ]
    choices = ["sdpa", "eager"] if attention == "auto" else [attention]
    seconds = {}
    for name in choices:
        put_training(build(folder, name, shape["dropout"]))
        train(3)
        seconds[name] = min(train(3)["seconds"] for _ in range(2))
    best = min(seconds, key=lambda name: seconds[name])
    put_training(build(folder, best, shape["dropout"]))
    parameters = sum(p.numel() for p in now["model"].parameters() if p.requires_grad)
    version = f"transformers {transformers.__version__}, torch {torch.__version__}"
    return {
        "parameters": parameters,
        "precision": precision,
        "attention": best,
        "class": type(now["model"]).__name__,
        "version": version,
    }


def put_training(model: nn.Module) -> None:
    """A fresh model and its optimiser."""
    now.update(model=model.train(), place=0)
    now["optimizer"] = torch.optim.Adam(
        model.parameters(), lr=1e-4, betas=(0.9, 0.98), eps=1e-9, fused=True
    )


def to_batch(source: np.ndarray, target: np.ndarray) -> dict[str, Tensor]:
    """Tensors made beforehand: this engine pays for no loader."""
    ids, labels = torch.from_numpy(source), torch.from_numpy(target)
    shifted = torch.full_like(labels, export.PAD)
    shifted[:, 0] = export.BOS
    shifted[:, 1:] = labels[:, :-1].masked_fill(labels[:, 1:] == export.PAD, export.PAD)
    return {
        "input_ids": ids,
        "attention_mask": (ids != export.PAD).long(),
        "decoder_input_ids": shifted,
        "labels": labels.masked_fill(labels == export.PAD, -100),
    }


def autocast() -> AbstractContextManager[None]:
    """bf16 where that was asked for."""
    return torch.autocast("cpu", torch.bfloat16, enabled=now["precision"] == "bf16")


def loss_of(batch: dict[str, Tensor], smoothing: float, reduction: str) -> Tensor:
    """Label-smoothed cross-entropy of a batch."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    logits = now["model"](**inputs, use_cache=False).logits
    return F.cross_entropy(
        logits.flatten(0, 1),
        batch["labels"].flatten(),
        ignore_index=-100,
        label_smoothing=smoothing,
        reduction=reduction,
    )


def train(updates: int) -> dict[str, Any]:
    """Go on by some updates."""
    tokens = 0
    with clock() as spent:
        for _ in range(updates):
            batch = now["batches"][now["place"] % len(now["batches"])]
            now["place"] += 1
            with autocast():
                loss = loss_of(batch, now["smoothing"], "mean")
            loss.backward()
            nn.utils.clip_grad_norm_(now["model"].parameters(), 1.0)
            now["optimizer"].step()
            now["optimizer"].zero_grad(set_to_none=True)
            tokens += int(
                (batch["input_ids"] != export.PAD).sum() + (batch["labels"] != -100).sum()
            )
        loss.item()
    return {"tokens": tokens, **spent}


def losses(updates: int) -> dict[str, Any]:
    """Negative log-likelihood of the first batches as the model is, without dropout."""
    now["model"].eval()
    with torch.no_grad():
        found = [loss_of(batch, 0.0, "sum").item() for batch in now["batches"][:updates]]
    now["model"].train()
    return {"losses": found}


def begin_decoding(folder: str, precision: str) -> dict[str, Any]:
    """The exported model, ready to generate."""
    model = build(folder, "sdpa", 0.0).eval()
    now.update(model=model, precision=precision)
    return {
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "precision": precision,
        "class": type(model).__name__,
        "version": f"transformers {transformers.__version__}, torch {torch.__version__}",
    }


def padded(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Ids with end tokens [B, S], and the mask."""
    longest = max(map(len, rows)) + 1
    filled = [[*row, export.EOS] + [export.PAD] * (longest - len(row) - 1) for row in rows]
    ids = torch.tensor(filled)
    return ids, (ids != export.PAD).long()


def decode(batches: list[list[list[int]]], beam: int, limit: int) -> dict[str, Any]:
    """Translate batches of source ids.

    The score is the sum of log-probabilities (length_penalty=0), and a sentence is over when
    ``beam`` hypotheses are finished (early_stopping=True), as in the other engines.
    """
    hypotheses = []
    with clock() as spent, torch.inference_mode(), autocast():
        for rows in batches:
            ids, mask = padded(rows)
            found = now["model"].generate(
                input_ids=ids,
                attention_mask=mask,
                num_beams=beam,
                do_sample=False,
                min_new_tokens=1,
                max_new_tokens=limit + 1,
                **({"length_penalty": 0.0, "early_stopping": True} if beam > 1 else {}),
            )
            hypotheses += [cut(row) for row in found[:, 1:].tolist()]
    tokens = sum(len(ids) + 1 for ids in hypotheses)
    return {"hypotheses": hypotheses, "sentences": len(hypotheses), "tokens": tokens, **spent}


def cut(ids: list[int]) -> list[int]:
    """What comes before the end token."""
    return ids[: ids.index(export.EOS)] if export.EOS in ids else ids


def score(sources: list[list[int]], targets: list[list[int]]) -> dict[str, Any]:
    """Log-probability of each target with its end."""
    found = []
    with torch.inference_mode(), autocast():
        for source, target in zip(sources, targets, strict=True):
            ids, mask = padded([source])
            out = torch.tensor([[*target, export.EOS]])
            given = torch.tensor([[export.BOS, *target]])
            logits = now["model"](
                input_ids=ids, attention_mask=mask, decoder_input_ids=given, use_cache=False
            ).logits
            chosen = logits.float().log_softmax(-1).gather(2, out[..., None])
            found.append(chosen.double().sum().item())
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
