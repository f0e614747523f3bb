"""A new run from an old one: its settings, its tokenizer, its weights, and parts held fast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from nmt import compose, runs
from nmt.config import Config
from nmt.data.tokenizer import Tokenizers
from nmt.errors import UserError
from nmt.models.seq2seq import Seq2Seq
from nmt.training.checkpoint import load_weights, put_weights

INHERITED = ("model", "attention", "tokenizer")


def inherited(config: Config, words: Sequence[str]) -> Config:
    """The configuration with the old run's model, attention and tokenizer where none was typed.

    Symbols in ``tokenizer.user_symbols`` join those of the old run. Words that stand for whole
    files (``experiment=``, ``debug=``) say for themselves what they want: then nothing is taken
    over, and the model has to fit.

    Raises:
        UserError: there is no such run.
    """
    old = runs.stored_config(Path(config.train.init_from or ""))
    heads = [word.lstrip("+~").partition("=")[0] for word in words]
    if any(head in compose.EXTRA_GROUPS for head in heads):
        return config
    values = {
        key: value
        for key, value in compose.flat(old).items()
        if key.partition(".")[0] in INHERITED
        and not any(key == head or key.startswith(f"{head}.") for head in heads)
    }
    symbols = [*old.tokenizer.user_symbols, *config.tokenizer.user_symbols]
    values["tokenizer.user_symbols"] = list(dict.fromkeys(symbols))
    return compose.with_values(config, values)


def old_tokenizers(config: Config) -> Tokenizers:
    """The old run's vocabulary with the symbols and tags that the new run adds."""
    folder = Path(config.train.init_from or "")
    symbols = [*config.tokenizer.user_symbols, *config.data.tags]
    return Tokenizers.load(folder / "tokenizer").with_symbols(symbols)


def put_old_weights(model: Seq2Seq, config: Config) -> str:
    """Give the model the old run's best weights; what was taken, for people.

    Embeddings and output rows of added symbols keep their fresh values.

    Raises:
        UserError: the old run has no such checkpoint, or it is of another model.
    """
    folder = Path(config.train.init_from or "")
    old = Tokenizers.load(folder / "tokenizer")
    weights = load_weights(folder / "checkpoints", "best", identity={"tokenizer": old.hash})
    grown = with_more_rows(weights.tensors, model.state_dict())
    put_weights(model, grown, origin=f"train.init_from={folder}")
    more = sum(t.shape != weights.tensors[name].shape for name, t in grown.items())
    return f"weights of {folder}, {weights.name}" + (f"; {more} tensors have new rows" * bool(more))


def with_more_rows(old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Old tensors; where the new one has more rows, the new one with the old rows in place."""
    grown = {}
    for name, tensor in old.items():
        fresh = new.get(name)
        if fresh is not None and fresh.shape[1:] == tensor.shape[1:] and len(fresh) > len(tensor):
            rows = fresh.detach().clone()
            rows[: len(tensor)] = tensor
            grown[name] = rows
        else:
            grown[name] = tensor
    return grown


def freeze(model: nn.Module, parts: Sequence[str]) -> int:
    """Hold the named parts fast; the number of parameters that are still trained.

    Raises:
        UserError: a name that no parameter begins with, with the names there are; nothing is left.
    """
    named = dict(model.named_parameters(remove_duplicate=False))
    for part in parts:
        found = [p for name, p in named.items() if name == part or name.startswith(f"{part}.")]
        if not found:
            known = dict.fromkeys(
                prefix
                for name in named
                for prefix in (name.partition(".")[0], ".".join(name.split(".")[:2]))
                if prefix != name or "." not in name
            )
            near = compose.nearest(part, known)
            raise UserError(
                f"train.freeze: the model has no part {part!r}{near if 'mean' in near else ''}; "
                f"it has {', '.join(known)}"
            )
        for parameter in found:
            parameter.requires_grad_(False)
    left = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if not left:
        raise UserError(f"train.freeze={list(parts)} leaves nothing to train")
    return left
