"""The one exception that is meant for the person who typed the command."""


class UserError(Exception):
    """Bad input: says in one line what is wrong, where, and what to do.

    The command line prints it on stderr without a traceback and exits with status 1
    (``NMT_DEBUG=1`` shows the traceback); from Python it is an ordinary exception.
    """
