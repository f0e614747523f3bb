"""`nmt story`: train a ladder of models, measure the claims on them, write the report."""

from nmt.commands.story.command import main

__all__ = ["main"]
