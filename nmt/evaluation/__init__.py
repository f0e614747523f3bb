"""Evaluation: scores with signatures, and pictures."""
