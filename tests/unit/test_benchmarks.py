"""The benchmarks can be imported, and what they compute besides times is right. Nothing is timed here."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from stages.fetch.config import ScratchModel
from stages.finetune.config import BatchConfig, FinetuneConfig
from stages.finetune.data import EncodedSplit
from stages.finetune.loss import Smoothing, plain_loss

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))


@pytest.fixture(scope="module", autouse=True)
def benchmarks_on_path() -> Iterator[None]:
    """Scripts find their neighbours by the folder they start from; leave no module behind."""
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path.remove(str(FOLDER))
    for name in NAMES:
        sys.modules.pop(name, None)


def module(name: str) -> ModuleType:
    return importlib.import_module(name)


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_can_be_imported(name: str) -> None:
    assert module(name).__doc__


@pytest.mark.parametrize(
    ("page", "wanted"),
    [
        ("# Page\n\ntext\n", "# Page\n\ntext\n\n## B\n\nnew\n"),
        ("# Page\n\n## B\n\nold\n", "# Page\n\n## B\n\nold\n\nnew\n"),
        (
            "# Page\n\n## A\n\na\n\n## B\n\nold\n\n## C\n\nc\n",
            "# Page\n\n## A\n\na\n\n## B\n\nold\n\nnew\n\n## C\n\nc\n",
        ),
    ],
    ids=["new section", "last section", "section in the middle"],
)
def test_results_go_to_the_end_of_their_section(page: str, wanted: str) -> None:
    assert module("common").with_text(page, "B", "new") == wanted


def test_the_naive_loss_is_ours_where_nothing_is_padding() -> None:
    torch.manual_seed(0)
    clean, noised = torch.randn(2, 3, 5, 11)
    targets, valid = torch.randint(11, (3, 5)), torch.ones(3, 5, dtype=torch.bool)
    ours = plain_loss(
        *(clean, noised, targets, valid),
        smoothing=Smoothing(0.1, "torch"),
        reduction="token",
        kl_lambda=0.7,
    )
    naive = module("naive_r3f").naive_loss(clean, noised, targets, valid, 0.1, 0.7)
    torch.testing.assert_close(naive, ours.total)


@pytest.mark.parametrize("strategy", ["batch_plan", "fairseq"])
def test_batching_visits_every_row_once(strategy: str) -> None:
    bench = module("bench_batching")
    config = BatchConfig(lanes=bench.RANKS, lane_tokens=4096)
    lengths = bench.Lengths("news", *bench.news_lengths(500), config)
    updates = getattr(bench, strategy)(lengths)
    rows = np.concatenate([rows for update in updates for rank in update for rows in rank])
    assert sorted(rows.tolist()) == list(range(500))


def test_a_case_is_read_as_it_was_written(tmp_path: Path) -> None:
    case = module("training_case")
    model = ScratchModel(source="scratch", d_model=16, layers=1, heads=2, ffn=16, max_positions=16)
    config = FinetuneConfig(batch=BatchConfig(lanes=2, lane_tokens=24))
    rows = ([[0, 5, 6, 2]] * 12, [[0, 7, 2]] * 12)
    case.write_case(tmp_path, model, 300, rows, config)
    split = EncodedSplit(tmp_path / "train")
    assert case.config_of(tmp_path) == config
    assert case.costs_of(tmp_path).d_model == 16
    assert split.source(11).tolist() == [0, 5, 6, 2]
    assert split.target(0).tolist() == [0, 7, 2]
    assert case.rows_per_micro_batch(tmp_path) == 3  # 24 tokens hold 3 rows of 7


def test_mfu_by_hand() -> None:
    """1e12 FLOPs forward: R3F does it twice, backward takes double; 6e12 in 2 s of 10 TFLOP/s."""
    assert module("bench_train").mfu(1e12, 2.0, 10.0) == pytest.approx(0.3)


@pytest.mark.parametrize(("is_gpu", "seconds"), [(True, 3.0), (False, 5.0)])
def test_ranks_share_cpu_time_and_wait_for_the_slowest_gpu(is_gpu: bool, seconds: float) -> None:
    ranks = [
        {"seconds": taken, "peak_mib": peak, "is_gpu": is_gpu}
        for taken, peak in ((2.0, 70.0), (3.0, 50.0))
    ]
    assert module("bench_zero").combined(ranks) == (70.0, seconds)


def test_the_gpu_script_names_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = module("gpu")
    (tmp_path / "cnndm").mkdir()
    monkeypatch.setattr(gpu, "MODULES", {"json": "json", "no_such_module": "no-such-package"})
    assert gpu.missing(tmp_path, needs_gpu=False) == [
        "not installed: no-such-package (pip install these)",
        f"--data {tmp_path}: no folder giga_like",
        f"--data {tmp_path}: no folder gpt2_bpe",
    ]


@pytest.mark.parametrize(
    ("code", "seconds", "wanted"),
    [
        ("", 60.0, "done"),
        ("exit(3)", 60.0, "failed with 3"),
        ("import time; time.sleep(60)", 0.0, "out of time"),
    ],
)
def test_a_step_of_the_gpu_script_ends_at_the_deadline(
    code: str, seconds: float, wanted: str
) -> None:
    gpu = module("gpu")
    outcome, _ = gpu.run(gpu.Step("step", ("-c", code)), time.monotonic() + seconds)
    assert outcome == wanted


def test_every_step_of_the_gpu_script_names_a_file_that_is_there() -> None:
    gpu = module("gpu")
    for step in (*gpu.gpu_steps("data"), *gpu.tiny_steps("data")):
        assert step.arguments[0] == "-m" or Path(step.arguments[0]).is_file()


def test_a_busy_machine_is_told_and_no_ratio_is_made_of_noise() -> None:
    bench = module("bench_rouge")
    assert bench.faster(4.0, 2.0) == "2.00"
    assert "too few pairs" in bench.faster(4.0, -0.1) == bench.faster(-4.0, 2.0)
    assert bench.load_note(0.99, 1.9) == []
    for cores in ((0.6, 1.9), (0.99, 0.9)):
        assert "other work" in bench.load_note(*cores)[-1]
