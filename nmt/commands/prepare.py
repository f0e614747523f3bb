"""`nmt prepare`: a corpus read, cleaned, split and tokenised once."""

from __future__ import annotations

from nmt.cli import Arguments
from nmt.compose import compose
from nmt.data.prepare import prepare, show_examples


def main(arguments: Arguments) -> int:
    config = compose(arguments.words, arguments.config, arguments.own)
    prepared = prepare(config.data, config.tokenizer, report=print)
    if config.data.show:
        show_examples(prepared, config.data.show, print)
    return 0
