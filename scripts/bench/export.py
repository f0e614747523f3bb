"""The weights of one of our Transformers under the names of the other engines.

`read` takes what engine_nmt.py wrote: a folder with ``weights.npz`` (the names of nmt's state) and
``shape.json``. Nothing is rounded, permuted or left out, and all engines compute one function:
projections into heads have no bias here, theirs get zeros; positions are the same table everywhere.
Shape letters: V vocabulary, D width, P positions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

Weights = dict[str, np.ndarray]
POSITIONS = 512
PAD, UNK, BOS, EOS = 0, 1, 2, 3


def read(folder: str) -> tuple[Weights, dict[str, Any]]:
    """Weights and shape of an exported model."""
    with np.load(Path(folder) / "weights.npz") as stored:
        weights = {name: stored[name] for name in stored.files}
    return weights, json.loads((Path(folder) / "shape.json").read_text("utf-8"))


def sinusoids(width: int) -> np.ndarray:
    """[P, D]: sines in the first half, cosines in the second."""
    rates = np.exp(np.arange(width // 2) * (2.0 / width) * -np.log(10_000.0))
    angles = np.arange(POSITIONS)[:, None] * rates
    return np.concatenate([np.sin(angles), np.cos(angles)], 1).astype(np.float32)


def layers(shape: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """("encoder", 0), ("encoder", 1), … ("decoder", 0), …"""
    for side in ("encoder", "decoder"):
        for number in range(shape[f"{side}_layers"]):
            yield side, number


def attention(weights: Weights, name: str) -> Weights:
    """Query, key, value and output projections of one attention, biases included."""
    if f"{name}.query.weight" in weights:
        key, value = np.split(weights[f"{name}.inputs.weight"], 2)
        query = weights[f"{name}.query.weight"]
    else:
        query, key, value = np.split(weights[f"{name}.inputs.weight"], 3)
    none = np.zeros(len(query), np.float32)
    return {
        "query.weight": query,
        "key.weight": key,
        "value.weight": value,
        "query.bias": none,
        "key.bias": none,
        "value.bias": none,
        "out.weight": weights[f"{name}.out.weight"],
        "out.bias": weights[f"{name}.out.bias"],
    }


def _renamed(weights: Weights, old: str, new: str) -> Weights:
    return {f"{new}.{kind}": weights[f"{old}.{kind}"] for kind in ("weight", "bias")}


def to_hugging_face(weights: Weights, shape: dict[str, Any]) -> Weights:
    """The state of MarianMTModel (post-norm) or PegasusForConditionalGeneration (pre-norm).

    Both classes are one architecture in `transformers` but for the place of the norms.
    """
    table = weights["target_embedding.weight"]
    state: Weights = {
        "model.shared.weight": table,
        "lm_head.weight": table,
        "final_logits_bias": weights["output_bias"][None],
    }
    short = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "out_proj"}
    for side, number in layers(shape):
        old, new = f"{side}.{number}", f"model.{side}.layers.{number}"
        kinds = {"self": "self_attn"} | ({"cross": "encoder_attn"} if side == "decoder" else {})
        for ours, theirs in kinds.items():
            for name, value in attention(weights, f"{old}.{ours}_attention").items():
                part, _, kind = name.partition(".")
                state[f"{new}.{theirs}.{short[part]}.{kind}"] = value
            state |= _renamed(weights, f"{old}.{ours}_residual.norm", f"{new}.{theirs}_layer_norm")
        state |= _renamed(weights, f"{old}.feed_residual.norm", f"{new}.final_layer_norm")
        state |= _renamed(weights, f"{old}.feed_forward.up", f"{new}.fc1")
        state |= _renamed(weights, f"{old}.feed_forward.down", f"{new}.fc2")
    for side in ("encoder", "decoder"):
        state[f"model.{side}.embed_tokens.weight"] = table
        state[f"model.{side}.embed_positions.weight"] = sinusoids(shape["width"])
        if shape["norm"] == "pre":
            state |= _renamed(weights, f"{side}_norm", f"model.{side}.layer_norm")
    return state


def to_joeynmt(weights: Weights, shape: dict[str, Any]) -> Weights:
    """The state of a JoeyNMT model, in which the unknown is 0 and padding 1.

    Its output layer is built without a bias; engine_joeynmt.py gives it one, as a parameter.
    """
    order = [UNK, PAD, *range(2, shape["vocab"])]
    table = weights["target_embedding.weight"][order]
    state: Weights = {
        "src_embed.lut.weight": table,
        "trg_embed.lut.weight": table,
        "decoder.output_layer.weight": table,
        "decoder.output_layer.bias": weights["output_bias"][order],
    }
    short = {"query": "q_layer", "key": "k_layer", "value": "v_layer", "out": "output_layer"}
    for side, number in layers(shape):
        old, new = f"{side}.{number}", f"{side}.layers.{number}"
        kinds = {"self": ("src_src_att", "layer_norm")}
        if side == "decoder":
            kinds = {
                "self": ("trg_trg_att", "x_layer_norm"),
                "cross": ("src_trg_att", "dec_layer_norm"),
            }
        for ours, (theirs, norm) in kinds.items():
            for name, value in attention(weights, f"{old}.{ours}_attention").items():
                part, _, kind = name.partition(".")
                state[f"{new}.{theirs}.{short[part]}.{kind}"] = value
            state |= _renamed(weights, f"{old}.{ours}_residual.norm", f"{new}.{norm}")
        feed = f"{new}.feed_forward"
        state |= _renamed(weights, f"{old}.feed_residual.norm", f"{feed}.layer_norm")
        state |= _renamed(weights, f"{old}.feed_forward.up", f"{feed}.pwff_layer.0")
        state |= _renamed(weights, f"{old}.feed_forward.down", f"{feed}.pwff_layer.3")
    for side in ("encoder", "decoder"):
        if shape["norm"] == "pre":
            state |= _renamed(weights, f"{side}_norm", f"{side}.layer_norm")
    return state


def to_ctranslate2(weights: Weights, shape: dict[str, Any], folder: str) -> None:
    """Write a CTranslate2 model; tokens are called by their numbers."""
    from ctranslate2.specs import common_spec, transformer_spec

    spec = transformer_spec.TransformerSpec.from_config(
        (shape["encoder_layers"], shape["decoder_layers"]),
        shape["heads"],
        pre_norm=shape["norm"] == "pre",
        activation=common_spec.Activation.RELU,
    )
    table = weights["target_embedding.weight"]
    for side in ("encoder", "decoder"):
        stack = getattr(spec, side)
        stack.scale_embeddings = True
        stack.position_encodings.encodings = sinusoids(shape["width"])
        if shape["norm"] == "pre":
            _put_norm(stack.layer_norm, weights, f"{side}_norm")
        for number, layer in enumerate(stack.layer):
            old = f"{side}.{number}"
            _put_attention(layer.self_attention, weights, old, "self")
            if side == "decoder":
                _put_attention(layer.attention, weights, old, "cross")
            _put_norm(layer.ffn.layer_norm, weights, f"{old}.feed_residual.norm")
            _put_linear(layer.ffn.linear_0, weights, f"{old}.feed_forward.up")
            _put_linear(layer.ffn.linear_1, weights, f"{old}.feed_forward.down")
    spec.encoder.embeddings[0].weight = table
    spec.decoder.embeddings.weight = table
    spec.decoder.projection.weight = table
    spec.decoder.projection.bias = weights["output_bias"]
    names = [str(number) for number in range(len(table))]
    spec.register_source_vocabulary(names)
    spec.register_target_vocabulary(names)
    spec.config.unk_token, spec.config.bos_token = str(UNK), str(BOS)
    spec.config.eos_token, spec.config.decoder_start_token = str(EOS), str(BOS)
    spec.config.add_source_bos = spec.config.add_source_eos = False
    spec.validate()
    spec.save(folder)


def _put_norm(spec: Any, weights: Weights, name: str) -> None:
    spec.gamma, spec.beta = weights[f"{name}.weight"], weights[f"{name}.bias"]


def _put_linear(spec: Any, weights: Weights, name: str) -> None:
    spec.weight, spec.bias = weights[f"{name}.weight"], weights[f"{name}.bias"]


def _put_attention(spec: Any, weights: Weights, layer: str, kind: str) -> None:
    """The query apart where it is a cross-attention; else one matrix for all three."""
    parts = attention(weights, f"{layer}.{kind}_attention")
    groups = [["query", "key", "value"]] if kind == "self" else [["query"], ["key", "value"]]
    for linear, group in zip(spec.linear, groups, strict=False):
        linear.weight = np.concatenate([parts[f"{name}.weight"] for name in group])
        linear.bias = np.concatenate([parts[f"{name}.bias"] for name in group])
    _put_linear(spec.linear[-1], parts, "out")
    _put_norm(spec.layer_norm, weights, f"{layer}.{kind}_residual.norm")
