"""Every case of the models: what the rules promise holds in each interleaving, and no rule can be left out."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

import pytest

from . import MODELS, cases_of
from .engine import Case, Process, explore

ALL = [(model, case) for model in MODELS for case in cases_of(model)]


def asked(controls: bool) -> list[Any]:
    """Return the cases, or the controls, each under its model and its sentence."""
    return [
        pytest.param(case, id=f"{model}: {case.says}", marks=[pytest.mark.slow] if case.slow else [])
        for model, case in ALL
        if (case.breaks is not None) == controls
    ]


@pytest.mark.parametrize("case", asked(controls=False))
def test_every_interleaving_keeps_the_invariants(case: Case) -> None:
    report = explore(case)
    assert not report.breaches, report.breaches


@pytest.mark.parametrize("case", asked(controls=True))
def test_without_its_rule_an_invariant_breaks(case: Case) -> None:
    first = explore(case).first()
    assert first is not None, "the rule that this control leaves out seems not to be needed"
    assert first.invariant == case.breaks


def test_a_control_says_so_and_only_a_control() -> None:
    assert all(case.says.startswith("control") == (case.breaks is not None) for _, case in ALL)


def test_each_case_of_a_model_says_something_else() -> None:
    said = [(model, case.says) for model, case in ALL]
    assert len(set(said)) == len(said)


def test_each_invariant_that_breaks_is_explained_on_top_of_its_model() -> None:
    missing = [(model, case.breaks) for model, case in ALL if case.breaks and f"\n{case.breaks} " not in top_of(model)]
    assert not missing


def test_each_step_is_explained_on_top_of_its_model_by_its_system_call() -> None:
    steps = {(model, step) for model, case in ALL for process in case.processes for step in steps_of(process)}
    missing = sorted((model, step) for model, step in steps if f"\n    {step} " not in top_of(model))
    assert not missing


def top_of(model: str) -> str:
    """Return the docstring of a model."""
    return import_module(f"{__package__}.{model}").__doc__ or ""


def steps_of(process: Process) -> set[str]:
    """Return the names of what `process` can do: its public methods that take a shared and a local state."""
    methods = {name: method for name, method in vars(type(process)).items() if inspect.isfunction(method)}
    taken = {
        name for name, method in methods.items() if list(inspect.signature(method).parameters) == ["self", "s", "me"]
    }
    return {name for name in taken if not name.startswith("_")} - {"step", "listed"}
