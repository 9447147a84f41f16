"""What stages that are to be done will take, and a plan with it, for people and for machines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.artifact import RunDir
from pipeline.config import JSON
from pipeline.errors import ConfigError
from pipeline.log import print_table
from pipeline.planner import Decision, current_inputs
from pipeline.stage import Execution, Forecast, ForecastContext, Recipe, Stage, forecaster

Forecasts = dict[str, Forecast]
"""By the name of the stage."""


def foreseen(
    decisions: list[Decision], recipe: Recipe, run_dir: RunDir, execution: Execution
) -> tuple[list[Decision], Forecasts]:
    """Add what the stages that are to be done will take, as far as they can tell."""
    forecasts = {
        stage.name: forecaster(stage.forecast)(stage.config(recipe), context)
        for stage, context in _to_do(decisions, recipe, run_dir, execution)
        if stage.forecast is not None
    }
    return decisions, forecasts


def probed(
    decisions: list[Decision], recipe: Recipe, run_dir: RunDir, execution: Execution
) -> Forecasts:
    """Try out the stages that are to be done and can be tried.

    Raises:
        ConfigError: If there is none.
    """
    found = {
        stage.name: forecaster(stage.probe)(stage.config(recipe), context)
        for stage, context in _to_do(decisions, recipe, run_dir, execution)
        if stage.probe is not None
    }
    if not found:
        raise ConfigError("--probe: nothing that is left to do can be tried; plan without it")
    return found


def _to_do(
    decisions: list[Decision], recipe: Recipe, run_dir: RunDir, execution: Execution
) -> Iterator[tuple[Stage, ForecastContext]]:
    settings = recipe.model_dump(mode="json", by_alias=True)
    for decision in decisions:
        if decision.is_to_do:
            inputs = current_inputs(decision.stage, decisions, run_dir)
            yield decision.stage, ForecastContext(inputs, settings, recipe.seed, execution)


def show_plan(decisions: Sequence[Decision], *forecasts: Forecasts) -> None:
    """Print what would be done, why, and what it would take."""
    rows = [(item.stage.name, item.action.value, item.reason) for item in decisions]
    print_table(("stage", "action", "why"), rows)
    for name, told in (item for by_stage in forecasts for item in by_stage.items()):
        print()
        lines = [(figure.label, figure.certainty, figure.text) for figure in told.figures]
        print_table((name, "", ""), lines)


def as_json(decision: Decision, forecasts: Forecasts, probes: Forecasts) -> JSON:
    """Return one line of a plan for machines."""
    name = decision.stage.name
    told = {
        key: by_stage[name].details
        for key, by_stage in (("forecast", forecasts), ("probe", probes))
        if name in by_stage
    }
    return {
        "stage": name,
        "action": decision.action.value,
        "why": decision.reason,
        "fingerprint": decision.fingerprint,
        **told,
    }
