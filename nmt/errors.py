"""The one exception that is meant for the person who typed the command."""

CLIP = 1_000
"""Characters of a message that are shown: some of them quote what stood in a file."""


class UserError(Exception):
    """Bad input: says in one line what is wrong, where, and what to do.

    The command line prints it on stderr without a traceback and exits with status 1
    (``NMT_DEBUG=1`` shows the traceback); from Python it is an ordinary exception.
    """


def one_line(error: BaseException) -> str:
    """A message as it may be shown on a terminal: one line, no control characters, not endless."""
    text = " ".join(str(error).split())
    text = "".join(c if c.isprintable() else "\ufffd" for c in text)
    return text if len(text) <= CLIP else f"{text[:CLIP]} …"
