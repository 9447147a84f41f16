"""Which model a path names, and the decoding settings that come with it; read without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.artifact import RunDir
from pipeline.config import JSON, ConfigT, load_yaml, validate
from pipeline.errors import ConfigError
from stages.decoding import PROFILE
from stages.generate.config import GenerateConfig, SearchConfig
from stages.text_rules import CleaningRules, rule_versions
from stages.tokens import Policy, TruncationRules

_WEIGHTS = ("*.safetensors", "*.bin")
_TOKENIZERS = ("tokenizer.json", "vocab.json")
_OF_HUGGING_FACE = (
    "num_beams",
    "min_length",
    "max_length",
    "length_penalty",
    "no_repeat_ngram_size",
    "early_stopping",
)
"""Settings that Hugging Face has by the same name and meaning."""
_NEUTRAL: dict[str, Any] = {
    "do_sample": False,
    "num_beam_groups": 1,
    "diversity_penalty": 0,
    "repetition_penalty": 1,
    "encoder_repetition_penalty": 1,
    "encoder_no_repeat_ngram_size": 0,
    "bad_words_ids": [],
    "suppress_tokens": [],
    "begin_suppress_tokens": [],
    "min_new_tokens": 0,
    "max_new_tokens": 0,
}
"""Settings of Hugging Face that we do not have, with the value that changes no summary."""


@dataclass(frozen=True, slots=True)
class ChosenModel:
    """A model directory and how it is used."""

    folder: Path
    search: SearchConfig
    settings_from: str
    """What the settings are from that were not given: a file, or where there are none there, defaults."""
    source_tokens: int
    """Longest source in tokens."""
    cleaning: CleaningRules | None = None
    """How the run cleaned its documents; None for a model of which that is unknown."""
    truncation: TruncationRules = field(default_factory=TruncationRules)
    """What is kept of longer ones."""
    not_used: tuple[str, ...] = ()
    """Settings of that file that would change summaries and that we do not have."""
    cleaned_otherwise: tuple[str, ...] = ()
    """Rules that cleaned the run's documents in another version, with both."""


def choose_model(
    path: Path, given: Mapping[str, Any], truncation: Policy | None = None
) -> ChosenModel:
    """Find the model of a run directory, or a Hugging Face directory of a BART.

    Args:
        path: A run directory with a committed export: its decoding settings are those of its recipe, and
            documents are cleaned and cut as `clean` and `encode` did. Or a folder with config.json, weights
            and tokenizer: settings from generation_config.json, else config.json, else SearchConfig's
            defaults.
        given: Settings that override these, by SearchConfig's names.
        truncation: What to keep of documents that are too long; None for what the run's encode kept, and
            for the head where there is no run.

    Raises:
        ConfigError: If it is neither, or the settings contradict one another.
        CorruptArtifact: If the exported model was damaged.
    """
    if not path.is_dir():
        raise ConfigError(
            f"{path}: is no directory; expected a run directory whose export is done, or a folder with "
            "config.json, weights and tokenizer. Nothing is downloaded here: fetch a model beforehand with "
            "`hf download NAME --local-dir DIR`"
        )
    run_dir = RunDir(path)
    if run_dir.recipe.is_file():
        found = _of_run(run_dir, given)
    elif (path / "config.json").is_file():
        found = _of_hugging_face(path, given)
    else:
        raise ConfigError(
            f"{path}: has neither recipe.yaml (a run directory) nor config.json (a Hugging Face model "
            "directory)"
        )
    if truncation is None:
        return found
    rules = found.truncation.model_copy(update={"truncation": truncation})
    return replace(found, truncation=rules)


def _of_run(run_dir: RunDir, given: Mapping[str, Any]) -> ChosenModel:
    export = run_dir.artifact("export")
    if export is None:
        raise ConfigError(
            f"{run_dir.root}: its export is not done, so there is no model yet; "
            f"finish it with `sumpipe run {run_dir.recipe} --run-dir {run_dir.root} --to export`"
        )
    folder, recipe = export.directory("model"), load_yaml(run_dir.recipe)
    generate = validate(GenerateConfig, recipe.get("generate", {}), f"{run_dir.recipe}, generate")
    settings = {name: value for name, value in generate if name in SearchConfig.model_fields}
    limit = min(_positions(folder), recipe.get("encode", {}).get("max_source_tokens", 1 << 30))
    search = _search(settings, given, str(run_dir.recipe), _positions(folder))
    cleaning = _section(CleaningRules, recipe, "clean", run_dir)
    return ChosenModel(
        folder,
        search,
        str(run_dir.recipe),
        limit,
        cleaning,
        _section(TruncationRules, recipe, "encode", run_dir),
        cleaned_otherwise=_other_versions(cleaning, run_dir),
    )


def _section(kind: type[ConfigT], recipe: JSON, section: str, run_dir: RunDir) -> ConfigT:
    """Return those settings of a section that `kind` has."""
    given = recipe.get(section, {})
    settings = {name: given[name] for name in kind.model_fields if name in given}
    return validate(kind, settings, f"{run_dir.recipe}, {section}")


def _other_versions(cleaning: CleaningRules, run_dir: RunDir) -> tuple[str, ...]:
    """Tell which rules the run's documents were cleaned with in another version."""
    clean = run_dir.artifact("clean")
    then = {} if clean is None else clean.manifest.payload["config"].get("rule_versions", {})
    return tuple(
        f"{name} {then[name]}, here {now}"
        for name, now in rule_versions(cleaning.rules).items()
        if then.get(name, now) != now
    )


def _of_hugging_face(folder: Path, given: Mapping[str, Any]) -> ChosenModel:
    for what, patterns in (("weights", _WEIGHTS), ("tokenizer", _TOKENIZERS)):
        if not any(any(folder.glob(pattern)) for pattern in patterns):
            raise ConfigError(f"{folder}: has no {what}; expected {' or '.join(patterns)}")
    positions = _positions(folder)
    file = folder / "generation_config.json"
    if not file.is_file():
        file = folder / "config.json"  # where it was before there was a file for it
    found = {name: value for name, value in _read(file).items() if value is not None}
    settings: JSON = {name: found[name] for name in _OF_HUGGING_FACE if name in found}
    if (first := found.get("forced_bos_token_id")) is not None:
        bos = _read(folder / "config.json").get("bos_token_id", 0)
        if first != bos:
            raise ConfigError(
                f"{file}: forced_bos_token_id {first} is not the model's <s>, {bos}; no other can be forced"
            )
        settings["force_bos"] = True
    if PROFILE in found:  # an export of ours, which states all of its rules
        settings["profile"] = found[PROFILE]
        settings["force_bos"] = "forced_bos_token_id" in found
        settings["force_eos"] = "forced_eos_token_id" in found
    settings_from = str(file) if settings else f"defaults, none in {file.name}"
    search = _search(settings, given, settings_from, positions)
    not_used = tuple(
        name for name, neutral in _NEUTRAL.items() if found.get(name, neutral) != neutral
    )
    return ChosenModel(folder, search, settings_from, positions, not_used=not_used)


def _search(
    settings: JSON, given: Mapping[str, Any], settings_from: str, positions: int
) -> SearchConfig:
    """Lay the given settings over the model's own.

    Raises:
        ConfigError: Naming the option to change.
    """
    defaults = SearchConfig()
    merged = {"max_length": min(defaults.max_length, positions), **settings, **given}
    least, most, beams = (
        merged.get(name, getattr(defaults, name))
        for name in ("min_length", "max_length", "num_beams")
    )
    if given.keys() & {"min_length", "max_length"} and least >= most:
        raise ConfigError(
            f"--min-length {least} must be less than --max-length {most} (what is not given is from "
            f"{settings_from}); give both"
        )
    if most > positions:
        raise ConfigError(
            f"--max-length: {most} is more than the model's {positions} positions; allowed: 2 to {positions}"
        )
    # There cannot be more summaries than beams, and no option here asks for several.
    merged["return_sequences"] = min(merged.get("return_sequences", 1), beams)
    return validate(SearchConfig, merged, f"decoding settings ({settings_from} and options)")


def _positions(folder: Path) -> int:
    file = folder / "config.json"
    config = _read(file)
    if config.get("model_type") != "bart":
        raise ConfigError(
            f"{file}: its model_type is {config.get('model_type')!r}; only 'bart' can be decoded"
        )
    positions = config.get("max_position_embeddings", 1024)
    if not isinstance(positions, int):
        raise ConfigError(
            f"{file}: max_position_embeddings: expected a number, found {positions!r}"
        )
    return positions


def _read(file: Path) -> JSON:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: cannot be read ({error})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{file}: expected a JSON object, found {type(values).__name__}")
    return values
