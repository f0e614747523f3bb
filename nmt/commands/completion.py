"""`nmt completion`: the script that teaches a shell to complete `nmt`."""

from __future__ import annotations

from nmt.cli import Arguments
from nmt.completion import SCRIPTS


def main(arguments: Arguments) -> int:
    print(SCRIPTS[arguments.choice("shell")].strip())
    return 0
