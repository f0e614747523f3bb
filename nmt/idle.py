"""Keys that have no effect beside others: typed ones are refused, so that none is silently unheard.

A preset may carry such keys, since `experiment=quickstart model=lstm` is a sensible thing to type.
"""

from __future__ import annotations

from collections.abc import Sequence

from nmt.config import Config, ModelKind, Pattern, Positions, Schedule, Window
from nmt.errors import UserError

RECURRENT = ("cell", "embedding", "bridge")
TRANSFORMER = (
    *("heads", "head_width", "ffn", "attention_dropout", "activation_dropout"),
    *("norm", "positions", "max_positions", "activation"),
)
SAMPLING = ("temperature", "top_k", "top_p")


def idle(config: Config) -> dict[str, str]:
    """The keys that change nothing in a configuration, each with what would make it count."""
    found: dict[str, str] = {}
    model, attention, optim = config.model, config.attention, config.optim
    if model.kind is ModelKind.transformer:
        found |= {f"model.{name}": "a recurrent model (model=lstm)" for name in RECURRENT}
        windows = Pattern.sliding in (attention.encoder, attention.decoder)
    else:
        found |= {
            f"model.{name}": "a Transformer (model=transformer_small)" for name in TRANSFORMER
        }
        windows = attention.window is not Window.full
    if model.positions is not Positions.learned:
        found.setdefault("model.max_positions", "model.positions=learned")
    if not windows:
        found["attention.span"] = "a window (attention=local_m, local_p or sliding_window)"
    if optim.schedule not in (Schedule.cosine, Schedule.linear):
        found["optim.min_ratio"] = "optim.schedule=cosine or linear"
    if not config.search.sample:
        found |= {f"search.{name}": "sampling (search=sample)" for name in SAMPLING}
    return found


def refuse_idle(config: Config, words: Sequence[str]) -> None:
    """Refuse typed words that would change nothing.

    Raises:
        UserError: names the word and what it belongs to.
    """
    unheard = idle(config)
    for word in words:
        key = word.partition("=")[0]
        if key in unheard:
            raise UserError(
                f"{word} would have no effect: {key} belongs to {unheard[key]}; leave it out, or "
                "choose that"
            )
