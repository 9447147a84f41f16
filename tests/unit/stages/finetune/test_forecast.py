"""What `plan` tells of fine-tuning's cost, before and after each stage that makes it more certain."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.distributed.profile import find_profile
from pipeline.errors import EXIT_DONE, EXIT_FAILED, EXIT_USAGE, DataError
from pipeline.recipe import resolve
from pipeline.stage import Execution, ForecastContext
from stages.finetune.forecast import forecast, model_of, sized
from stages.finetune.sizes import KNOWN
from stages.graph import STAGES
from stages.recipe import SummarizationRecipe
from tests.conftest import CommandLine
from tests.launching import TINY

FINETUNE = next(stage for stage in STAGES if stage.name == "finetune")


def context(recipe: str, *overrides: str, processes: int = 2) -> tuple[Any, ForecastContext]:
    """Return the configuration and what the forecast sees before anything is fetched."""
    resolved, _ = resolve(SummarizationRecipe, recipe, overrides)
    settings = resolved.model_dump(mode="json", by_alias=True)
    execution = Execution(processes, 1, find_profile("zero2"))
    assert isinstance(resolved, SummarizationRecipe)
    return resolved.finetune, ForecastContext({}, settings, resolved.seed, execution)


def told(recipe: str, *overrides: str, processes: int = 2) -> dict[str, Any]:
    found = forecast(*context(recipe, *overrides, processes=processes))
    return {figure.label.strip(): (figure.certainty, figure.text) for figure in found.figures}


def finetune_row(answer: str) -> dict[str, Any]:
    (row,) = [row for row in json.loads(answer) if row["stage"] == "finetune"]
    found: dict[str, Any] = row
    return found


def test_the_entries_are_there_and_light() -> None:
    assert FINETUNE.forecast == f"{forecast.__module__}:{forecast.__name__}"
    assert FINETUNE.probe == "stages.finetune.probe:probe"


def test_a_known_model_of_the_hub_is_told_before_it_is_fetched() -> None:
    lines = told("cnn_dm_bart_large")
    assert lines["parameters"] == (
        "estimate",
        "406,291,456 (facebook/bart-large as published, not fetched yet)",
    )
    assert "not known before `encode`" in lines["updates"][1]
    assert " to " in lines["memory a device"][1]


def test_an_unknown_model_of_the_hub_is_said_to_be_unknown() -> None:
    model = "fetch.model={source: hub, path: me/mine, revision: abc}"
    lines = told("cnn_dm_bart_large", model, processes=5)
    assert lines["parameters"][0] == "unknown"
    assert "`fetch`" in lines["parameters"][1]
    assert lines["idle share"][0] == "exact"


def test_a_local_model_is_read_where_it_is(tmp_path: Path) -> None:
    from transformers import BartConfig

    BartConfig(d_model=64, encoder_attention_heads=4, decoder_attention_heads=4).save_pretrained(
        tmp_path
    )
    _, seen = context("cnn_dm_bart_large", f"fetch.model={{source: local, path: {tmp_path}}}")
    model = model_of(seen)
    assert model is not None
    assert (model.sizes.d_model, model.certainty) == (64, "exact")
    (tmp_path / "config.json").write_text('{"model_type": "t5"}', encoding="utf-8")
    with pytest.raises(DataError, match="t5"):
        model_of(seen)


def test_a_vocabulary_of_given_files_is_known(tmp_path: Path) -> None:
    (tmp_path / "encoder.json").write_text(json.dumps({"a": 0, "b": 1, "c": 2}), encoding="utf-8")
    _, seen = context("demo", f"fetch.model.bpe={tmp_path}")
    model = model_of(seen)
    assert model is not None
    assert (model.sizes.vocab_size, model.certainty) == (3 + 4 + 1, "exact")


def test_idle_processes_are_told_with_better_numbers() -> None:
    certainty, text = told("demo", "finetune.batch.lanes=8", processes=5)["idle share"]
    assert certainty == "exact"
    assert text.startswith("20.0 %")
    assert "4 processes are as fast" in text
    assert "8 are the next" in text


def test_more_processes_than_lanes_are_told_to_be_refused() -> None:
    lines = told("demo", processes=5)
    assert "5 are more than the 2 lanes" in lines["processes"][1]
    assert lines["memory a device"] == told("demo", processes=2)["memory a device"]


def test_checkpointing_and_sharding_show_in_memory() -> None:
    on = "finetune.activation_checkpointing=true"
    plain, redone = (
        forecast(*context("cnn_dm_bart_large_r3f", *more)).details for more in ((), (on,))
    )
    assert redone["device_bytes"]["activations"] < 0.5 * plain["device_bytes"]["activations"]
    switched = "device_bytes_with_activation_checkpointing_switched"
    assert plain[switched] == redone["device_bytes"]["peak"]
    assert plain["device_bytes"]["weights"] > 4 * KNOWN["facebook/bart-large"].parameters


@pytest.mark.parametrize("selection", [("last", 0), ("best", 1), ("average", 5)])
def test_checkpoints_are_those_kept_and_one_being_written(selection: tuple[str, int]) -> None:
    weights, more = selection
    given = (f"finetune.selection.weights={weights}", "finetune.keep_checkpoints=3")
    details = forecast(*context("demo", *given)).details
    assert details["checkpoints_kept"] == 3 + more
    expected = (3 + more + 1) * details["checkpoint_bytes"]
    assert details["checkpoints_bytes_with_one_partial"] == expected


@pytest.mark.parametrize(
    ("count", "text"), [(2**30, "1.00 GiB"), (3 * 2**29, "1.50 GiB"), (2**19, "0.5 MiB")]
)
def test_sizes_are_in_binary_units(count: int, text: str) -> None:
    assert sized(count) == text


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with everything before fine-tuning."""
    run_dir = tmp_path_factory.mktemp("forecast") / "run"
    command = ["run", str(TINY), "--run-dir", str(run_dir), "--to", "encode"]
    done = subprocess.run(
        [sys.executable, "-m", "stages", *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == EXIT_DONE, done.stderr
    return run_dir


def test_the_fetched_model_and_encoded_rows_make_it_exact(
    encoded: Path, sumpipe: CommandLine
) -> None:
    from transformers import BartForConditionalGeneration

    details = finetune_row(sumpipe("plan", TINY, "--run-dir", encoded, "--json").out)["forecast"]
    model = BartForConditionalGeneration.from_pretrained(encoded / "fetch" / "model")
    assert details["parameters"] == sum(p.numel() for p in model.parameters())
    assert details["parameters_certainty"] == "exact"
    assert details["is_encoded"]
    assert details["largest_micro_batch_at_least"] == details["largest_micro_batch_at_most"]
    assert details["device_bytes_at_least"] == details["device_bytes"]["peak"]
    text = sumpipe("plan", TINY, "--run-dir", encoded).out
    assert "target tokens (" in text
    assert "estimate" in text and "exact" in text


def test_the_range_before_encoding_holds_what_comes(
    encoded: Path, tmp_path: Path, sumpipe: CommandLine
) -> None:
    before, after = (
        finetune_row(sumpipe("plan", TINY, "--run-dir", run_dir, "--json").out)["forecast"]
        for run_dir in (tmp_path / "none", encoded)
    )
    assert not before["is_encoded"]
    assert after["device_bytes"]["peak"] <= before["device_bytes"]["peak"]
    assert after["target_tokens_most"] <= before["padded_tokens_per_update_at_most"]


LIGHT = """
import sys
from stages.__main__ import main
try:
    main()
except SystemExit as stop:
    heavy = ("torch", "transformers", "deepspeed", "datasets", "tokenizers", "pandas")
    print([name for name in heavy if name in sys.modules], file=sys.stderr)
    sys.exit(stop.code)
"""


def test_planning_on_encoded_rows_imports_nothing_heavy(encoded: Path) -> None:
    command = [sys.executable, "-c", LIGHT, "plan", str(TINY), "--run-dir", str(encoded)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (EXIT_DONE, "[]\n")
    assert "largest micro-batch" in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, so nothing is refused")
def test_a_probe_without_a_gpu_is_refused(encoded: Path, sumpipe: CommandLine) -> None:
    answer = sumpipe("plan", TINY, "--run-dir", encoded, "--probe")
    assert answer.code == EXIT_FAILED
    assert "no GPU" in answer.err


def test_a_probe_runs_the_largest_micro_batch(encoded: Path) -> None:
    """In a process of its own, since it makes a process group and measures the process's memory."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.fakes.cpu_probe", str(TINY), str(encoded)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == EXIT_DONE, done.stderr
    details = json.loads(done.stdout.splitlines()[-1])
    assert details["device"] == "cpu"
    assert details["micro_batch"]["rows"] >= 1
    assert details["device_bytes_predicted"] == pytest.approx(details["storage_bytes"], rel=0.1)
    # Resident memory holds what the libraries load besides.
    assert details["device_bytes_measured"] > 0.5 * details["device_bytes_predicted"]


def test_a_probe_needs_the_model(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.fakes.cpu_probe", str(TINY), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == EXIT_USAGE
    assert "--only fetch" in done.stderr
