"""A run whose training left checkpoints, for tests of the export."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import BartForConditionalGeneration

from pipeline.artifact import RunDir
from pipeline.distributed.checkpoint import folder_name
from pipeline.distributed.world import World
from pipeline.files import record_tree, write_json
from pipeline.log import Progress
from pipeline.preemption import StopFlag
from pipeline.stage import Execution, StageContext
from stages.fetch.config import ScratchModel

State = dict[str, Tensor]
SMALL = ScratchModel(source="scratch", d_model=16, layers=1, heads=2, ffn=16, max_positions=32)

NEWEST = 7


def probe(trained: BartForConditionalGeneration) -> State:
    """Two rows, the second one padded, with the trainer's logits."""
    source_BS = torch.tensor([[0, 10, 11, 12, 2], [0, 13, 2, 1, 1]])
    target_BT = torch.tensor([[0, 20, 2], [0, 2, 1]])
    batch = {
        "source_ids_BS": source_BS,
        "source_mask_BS": (source_BS != 1).long(),
        "decoder_ids_BT": torch.tensor([[2, 0, 20], [2, 0, 2]]),
        "target_ids_BT": target_BT,
        "target_mask_BT": target_BT != 1,
    }
    with torch.no_grad():
        logits_BTV = trained(
            input_ids=source_BS,
            attention_mask=batch["source_mask_BS"],
            decoder_input_ids=batch["decoder_ids_BT"],
        ).logits
    return {**batch, "logits_BTV": logits_BTV}


def prefixed(model: BartForConditionalGeneration) -> State:
    """A model's state under the names of the trained module."""
    return {f"bart.{name}": tensor.clone() for name, tensor in model.state_dict().items()}


def write_checkpoint(root: Path, update: int, state: State) -> None:
    """A committed ZeRO-0 checkpoint."""
    folder = root / folder_name(update)
    (folder / "state").mkdir(parents=True)
    torch.save({"module": state}, folder / "state" / "mp_rank_00_model_states.pt")
    record = {"update": update, "world_size": 1, "zero_stage": 0, "notes": None}
    write_json(folder / "commit.json", {**record, "files": record_tree(folder)})


def new_context(
    root: Path,
    pretrained: Path,
    trained: BartForConditionalGeneration,
    change: Callable[[State], object] = lambda state: None,
    *,
    older: Mapping[int, State] | None = None,
    chosen: tuple[int, ...] = (NEWEST,),
) -> StageContext:
    """The context of export in a run whose training left checkpoints; `change` edits the newest."""
    run_dir = RunDir(root)
    folder = run_dir.open_partial("fetch", {}) / "model"
    folder.mkdir()
    for file in pretrained.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    finetuned = run_dir.open_partial("finetune", {})
    newest = prefixed(trained)
    change(newest)
    for update, state in {**(older or {}), NEWEST: newest}.items():
        write_checkpoint(finetuned / "checkpoints", update, state)
    write_json(finetuned / "selection.json", {"weights": "last", "updates": list(chosen)})
    save_file(probe(trained), finetuned / "probe.safetensors")
    inputs = {name: run_dir.commit(name, {}, {}, {}) for name in ("fetch", "finetune")}
    work = run_dir.open_partial("export", {})
    execution = Execution(processes=1, threads=1, ds_profile=Path("zero0.json"))
    progress = Progress("export", None, console=False)
    return StageContext(
        inputs, work, 1, World(), execution, StopFlag(), progress, guard=lambda: None
    )
