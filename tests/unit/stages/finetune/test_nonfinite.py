"""What is left on disk of an update that was not finite."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.files import read_json
from stages.finetune.model import Batch
from stages.finetune.nonfinite import LaneLoss, write_bundle

NAN, INF = math.nan, math.inf


def batch(seed: int) -> Batch:
    random = torch.Generator().manual_seed(seed)
    source_BS = torch.randint(4, 90, (2, 5), generator=random)
    # A transposed view: safetensors takes none, so it must be laid out anew.
    target_BT = torch.randint(4, 90, (3, 2), generator=random).t()
    mask_BT = torch.tensor([[True, True, True], [True, False, False]])
    return Batch.of(source_BS, torch.ones_like(source_BS), target_BT.roll(1, 1), target_BT, mask_BT)


@pytest.mark.parametrize(
    ("sums", "is_finite"),
    [
        ((1.0, 2.0, 3.0), True),
        ((NAN, 2.0, 3.0), False),
        ((1.0, -INF, 3.0), False),
        ((1.0, 2.0, INF), False),
    ],
)
def test_a_lane_is_finite_if_all_its_sums_are(
    sums: tuple[float, float, float], is_finite: bool
) -> None:
    assert LaneLoss(0, ["a"], *sums).is_finite is is_finite


def test_lanes_come_back_from_disk_with_their_ids(tmp_path: Path) -> None:
    lanes = [
        (LaneLoss(3, ["train-1", "train-Ü"], NAN, 0.1, INF), batch(1)),
        (LaneLoss(11, ["train-7", "train-8"], 1 / 3, 0.25, -INF), batch(2)),
    ]
    facts = {"update": 5, "loss_scale": 8.0, "not_finite": "loss"}
    folder = tmp_path / "nonfinite" / "update_00000005"
    assert write_bundle(folder, lanes, facts) == ["train-1", "train-Ü", "train-7", "train-8"]
    for loss, given in lanes:
        stem = folder / f"lane_{loss.lane:04d}"
        read = load_file(stem.with_suffix(".safetensors"))
        assert read.keys() == given.tensors().keys()
        for name, tensor in given.tensors().items():
            assert read[name].dtype == tensor.dtype
            assert torch.equal(read[name], tensor), name
        said = read_json(stem.with_suffix(".json"))
        assert "NaN" not in stem.with_suffix(".json").read_text("utf-8")  # JSON has no such number
        assert (said["ids"], said["lane"]) == (loss.ids, str(loss.lane))
        sums = [float(said[name]) for name in ("nll", "smoothing", "kl")]
        assert sums == pytest.approx([loss.nll, loss.smoothing, loss.kl], rel=0, nan_ok=True)
        assert {name: said[name] for name in facts} == facts


def test_written_again_it_is_the_same(tmp_path: Path) -> None:
    lanes = [(LaneLoss(0, ["a", "b"], NAN, 0.0, 0.0), batch(3))]

    def written() -> dict[str, bytes]:
        write_bundle(tmp_path / "update", lanes, {"update": 1})
        return {path.name: path.read_bytes() for path in (tmp_path / "update").iterdir()}

    assert written() == written()


def test_a_rank_without_a_culprit_names_nobody(tmp_path: Path) -> None:
    assert write_bundle(tmp_path / "update", [], {"update": 1}) == []
    assert list((tmp_path / "update").iterdir()) == []
