"""What ranks do in the tests of resuming: the finetune stage, killed in a save, or noting its rows."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import torch

from pipeline.distributed.world import World
from stages.finetune import loop
from tests.distributed import training_cases


def finetune(
    world: World, rows_folder: str, kill_in_save: tuple[int, int] | None = None, **settings: Any
) -> dict[str, Any]:
    """Do what `training_cases.finetune` does.

    Args:
        world: This rank.
        rows_folder: Where to write the ids that each lane of this rank trains on.
        kill_in_save: (update, rank): the rank dies when half of its part of that checkpoint is written.
        settings: For `training_cases.finetune`.
    """
    _note_rows(world, Path(rows_folder))
    if kill_in_save is not None and kill_in_save[1] == world.rank:
        _die_in_save(kill_in_save[0])
    return training_cases.finetune(world, **settings)


def _note_rows(world: World, folder: Path) -> None:
    real = loop.train_update
    file = folder / f"rows-{world.size}-{world.rank}.jsonl"

    def train_update(ranks: Any, work: Any, number: int, lanes: int, *rest: Any) -> Any:
        outcome = real(ranks, work, number, lanes, *rest)
        mine = range(world.rank, len(work.lanes), world.size)
        ids = [row for lane in mine for row in work.task.ids(work.lanes[lane])]
        with file.open("a", encoding="utf-8") as out:
            out.write(json.dumps({"update": number, "epoch": work.epoch, "ids": ids}) + "\n")
        return outcome

    loop.train_update = train_update


def _die_in_save(update: int) -> None:
    real = torch.save

    def save(state: object, path: Any, **settings: Any) -> None:
        real(state, path, **settings)
        if f"update_{update:08d}.partial" in str(path):
            os.truncate(path, Path(path).stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    torch.save = save  # type: ignore[assignment]
