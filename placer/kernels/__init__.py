"""Compiled loops of the placer: arrays and scalars only."""
