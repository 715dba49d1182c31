"""Experiments: one module or folder each, run as `python -m experiments.NAME`."""
