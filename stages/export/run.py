"""Write the fine-tuned model as a Hugging Face directory, and prove that it is the trained one."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import BartForConditionalGeneration, GenerationConfig

from pipeline.distributed.checkpoint import committed, newest_valid
from pipeline.distributed.zero import full_state
from pipeline.errors import CheckpointError, CorruptArtifact
from pipeline.files import read_json
from pipeline.stage import Metrics, StageContext
from stages.decoding import PROFILE, as_hugging_face
from stages.export.config import ExportSettings

_PREFIX = "bart."
_ARCHITECTURE = {"normalize_before": False, "normalize_embedding": True}
"""How every BART is built. CTranslate2's converter looks for it in config.json (`BartLoader`, 4.8.5), where
transformers' own BART code never did: what a pretrained model says there may be missing or wrong."""
_TOKENIZER_FILES = {
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "vocab.txt", "chat_template.jinja"),
    *("sentencepiece.bpe.model", "spiece.model", "tokenizer.model", "dict.txt"),
}
_WEIGHT_FILES = (".safetensors", ".bin", ".index.json")

_logger = logging.getLogger(__name__)


def run(config: ExportSettings, context: StageContext) -> Metrics:
    """Write model/ (weights, tokenizer, decoding rules); its logits must be the trainer's at every step.

    The newest checkpoint's weights are compared with what the trainer computed from them. Only then those
    that were chosen are put in their place, and the reloaded directory is compared with them.
    """
    trained = context.inputs["finetune"]
    checkpoints = trained.directory("checkpoints")
    newest = newest_valid(checkpoints)
    if newest is None:
        raise CheckpointError(f"{trained.path}: holds no checkpoint")
    chosen: list[int] = read_json(trained.file("selection.json"))["updates"]
    model_folder = context.work / "model"
    shutil.rmtree(model_folder, ignore_errors=True)
    pretrained = context.inputs["fetch"].directory("model")
    model = BartForConditionalGeneration.from_pretrained(pretrained, dtype=torch.float32)
    probe = load_file(trained.file("probe.safetensors"))
    _fill(model, full_state(newest.folder))
    from_trainer = _difference(_logits(model, probe), probe["logits_BTV"], probe)
    if chosen != [newest.update]:
        _fill(model, average_state([committed(checkpoints, update).folder for update in chosen]))
    rules = as_hugging_face(config.decoding, model.config)
    model.config.update(_ARCHITECTURE)
    # BART-large's; transformers 4's pipeline("summarization") would lay them over the rules.
    vars(model.config).pop("task_specific_params", None)
    model.generation_config = GenerationConfig(**rules, **{PROFILE: config.decoding.profile})
    model.save_pretrained(model_folder)
    _copy_tokenizer(pretrained, model_folder)
    context.stop.check("export keeps nothing of it and begins anew")
    reloaded = _reload(model_folder)
    from_disk = _difference(_logits(reloaded, probe), _logits(model, probe), probe)
    difference = float(torch.tensor([from_trainer, from_disk]).max())  # NaN if either is
    if not difference <= config.logit_tolerance:
        raise CorruptArtifact(
            f"{model_folder}: its logits differ from the trainer's by {difference:.3g}, "
            f"export.logit_tolerance allows {config.logit_tolerance:g}; nothing was exported"
        )
    return {
        "largest_logit_difference": difference,
        "updates": " ".join(map(str, chosen)),
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
    """Copy the tokenizer's files; weights and configuration are written anew.

    What else lies in a pretrained model's folder (its card, other weights, its trainer's state, secrets) is
    not this model's, and must not be published with it: files are known by their whole name.
    """
    for file in source.iterdir():
        if file.name in _TOKENIZER_FILES:
            shutil.copyfile(file, target / file.name)
        elif not file.name.endswith(_WEIGHT_FILES) and not (target / file.name).exists():
            _logger.info("%s stays behind: it is no file of a tokenizer", file.name)


def average_state(folders: Sequence[Path]) -> dict[str, Tensor]:
    """Return the mean of checkpoints' weights, added up in float64 and rounded to float32 once.

    Weight averaging after Izmailov et al. (arXiv 1803.05407), over the candidates of one training. At no time
    is more than one checkpoint beside the mean, of which tied weights have one copy: a large model has to fit
    a job of little memory. The mean of one checkpoint is that checkpoint.

    Raises:
        CheckpointError: If the checkpoints tie different weights.
    """
    if len(folders) == 1:
        return full_state(folders[0])
    mean: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    for folder in folders:
        state = full_state(folder)
        found = _tied(state)
        if mean and found != tied:
            raise CheckpointError(f"{folder}: has or ties other weights than {folders[0]}")
        tied = found
        for name in {*tied.values()}:
            part = state.pop(name).double().div_(len(folders))
            mean[name] = mean[name].add_(part) if name in mean else part
        del state, part  # before the next checkpoint is read
    for name in mean:
        mean[name] = mean[name].float()
    return {name: mean[owner] for name, owner in tied.items()}


def _tied(state: dict[str, Tensor]) -> dict[str, str]:
    """Return for each weight the first, by the alphabet, of the names that share its memory."""
    names = sorted(state, reverse=True)
    first = {state[name].data_ptr(): name for name in names}
    return {name: first[state[name].data_ptr()] for name in names}


def _reload(folder: Path) -> BartForConditionalGeneration:
    """Load what was written, as anybody would.

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
    return model


def _logits(model: BartForConditionalGeneration, probe: dict[str, Tensor]) -> Tensor:
    model.eval()
    with torch.no_grad():
        logits_BTV: Tensor = model(
            input_ids=probe["source_ids_BS"],
            attention_mask=probe["source_mask_BS"],
            decoder_input_ids=probe["decoder_ids_BT"],
            use_cache=False,
        ).logits
    return logits_BTV


def _difference(found_BTV: Tensor, wanted_BTV: Tensor, probe: dict[str, Tensor]) -> float:
    """Return the largest difference of logits where there is a target."""
    return float((found_BTV - wanted_BTV)[probe["target_mask_BT"]].abs().max())
