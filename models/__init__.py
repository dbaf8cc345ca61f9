"""Surrogates of the twin: features, data sets, training, trees, artefacts (never pydantic models)."""
