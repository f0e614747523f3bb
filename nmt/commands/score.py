"""`nmt score`: how probable given translations are."""

from __future__ import annotations

from nmt.cli import Arguments
from nmt.commands.files import read_file
from nmt.errors import UserError
from nmt.translator import Translator


def main(arguments: Arguments) -> int:
    paths = arguments.runs()
    if "source" not in arguments.own or "target" not in arguments.own:
        raise UserError("nmt score needs source=FILE and target=FILE, one sentence a line")
    sources, targets = (read_file(arguments.own[key]) for key in ("source", "target"))
    checkpoint = arguments.own.get("checkpoint", "best")
    tag = arguments.own.get("tag", "")
    translator = Translator.load(paths, checkpoint=checkpoint, words=arguments.words, tag=tag)
    for score in translator.score(sources, targets):
        print(f"{score.log_prob:.4f}\t{score.tokens}\t{score.mean:.4f}")
    return 0
