"""Write the fine-tuned model as a Hugging Face directory, and prove that it is the trained one."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import BartForConditionalGeneration

from pipeline.distributed.checkpoint import newest_valid
from pipeline.distributed.zero import full_state
from pipeline.errors import CheckpointError, CorruptArtifact
from pipeline.stage import Metrics, StageContext
from stages.export.config import ExportConfig

_PREFIX = "bart."
_WEIGHT_FILES = (".safetensors", ".bin", ".index.json")

_logger = logging.getLogger(__name__)


def run(config: ExportConfig, context: StageContext) -> Metrics:
    """Write model/ (config, safetensors, tokenizer), reload it and compare logits with the trainer's."""
    trained = context.inputs["finetune"]
    found = newest_valid(trained.directory("checkpoints"))
    if found is None:
        raise CheckpointError(f"{trained.path}: holds no checkpoint")
    model_folder = context.work / "model"
    shutil.rmtree(model_folder, ignore_errors=True)
    pretrained = context.inputs["fetch"].directory("model")
    model = BartForConditionalGeneration.from_pretrained(pretrained, dtype=torch.float32)
    _fill(model, full_state(found.folder))
    model.save_pretrained(model_folder)
    _copy_tokenizer(pretrained, model_folder)
    context.stop.check()
    difference = _compare(model_folder, trained.file("probe.safetensors"))
    if not difference <= config.logit_tolerance:
        raise CorruptArtifact(
            f"{model_folder}: its logits differ from the trainer's by {difference:.3g}, "
            f"export.logit_tolerance allows {config.logit_tolerance:g}; nothing was exported"
        )
    return {
        "largest_logit_difference": difference,
        "update": found.update,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "model_bytes": sum(path.stat().st_size for path in model_folder.iterdir()),
    }


def _fill(model: BartForConditionalGeneration, state: dict[str, Tensor]) -> None:
    """Put trained weights into the model; every weight must be there, with its shape.

    Raises:
        CorruptArtifact: If a weight is missing, left over, or has another shape (an unpartitioned one).
    """
    weights = {name.removeprefix(_PREFIX): tensor for name, tensor in state.items()}
    expected = model.state_dict()
    wrong = [
        f"{name}: {tuple(weights[name].shape) if name in weights else 'missing'}, "
        f"expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name not in weights or weights[name].shape != tensor.shape
    ]
    wrong += [f"{name}: not in the model" for name in weights.keys() - expected.keys()]
    if wrong:
        raise CorruptArtifact(f"the checkpoint does not fit the model: {'; '.join(wrong[:5])}")
    model.load_state_dict(weights)
    model.tie_weights()


def _copy_tokenizer(source: Path, target: Path) -> None:
    """Copy whatever the tokenizer needs; weights and configuration are written anew."""
    for file in source.iterdir():
        is_weight = file.name.endswith(_WEIGHT_FILES)
        if file.is_file() and not is_weight and not (target / file.name).exists():
            shutil.copyfile(file, target / file.name)


def _compare(folder: Path, probe: Path) -> float:
    """Return the largest difference between the reloaded model's logits and the trainer's.

    Raises:
        CorruptArtifact: If loading reports missing or unexpected weights, or an untied embedding.
    """
    model, report = BartForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    leftovers = {key: names for key, names in report.items() if names}
    if leftovers:
        raise CorruptArtifact(f"{folder}: does not load cleanly: {leftovers}")
    embedding = model.model.shared.weight
    tied = (
        model.lm_head.weight,
        model.model.encoder.embed_tokens.weight,
        model.model.decoder.embed_tokens.weight,
    )
    if any(weight.data_ptr() != embedding.data_ptr() for weight in tied):
        raise CorruptArtifact(f"{folder}: the token embedding is no longer shared")
    tensors = load_file(probe)
    model.eval()
    with torch.no_grad():
        logits_BTV = model(
            input_ids=tensors["source_ids_BS"],
            attention_mask=tensors["source_mask_BS"],
            decoder_input_ids=tensors["decoder_ids_BT"],
            use_cache=False,
        ).logits
    valid_BT = tensors["target_mask_BT"]
    return float((logits_BTV - tensors["logits_BTV"])[valid_BT].abs().max())
