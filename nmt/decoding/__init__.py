"""Decoding: search, text in and text out, word alignment."""
