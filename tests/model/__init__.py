"""Models of the commit, each explored in every interleaving. Start at `commit`; run ``python -m tests.model``."""

from __future__ import annotations

from importlib import import_module

from .engine import Case

MODELS = ("commit", "listing", "names", "inline", "conflict", "retry", "cuts", "readers")
"""The models, each a module here with its ``CASES``."""


def cases_of(model: str) -> tuple[Case, ...]:
    """Return the cases of a model, by its name."""
    cases: tuple[Case, ...] = import_module(f"{__name__}.{model}").CASES
    return cases
