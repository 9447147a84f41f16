"""Code that decodes as the run did, for the model card."""

from __future__ import annotations

from pipeline.config import JSON

_CODE = """\
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig

folder = "export/model"  # in the run directory
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
settings = GenerationConfig(
{settings}
)
document = "..."
inputs = tokenizer(document, truncation=True, max_length={source_tokens}, return_tensors="pt")
output = model.generate(
    input_ids=inputs["input_ids"],
    attention_mask=inputs["attention_mask"],
    generation_config=settings,
)
print(tokenizer.decode(output[0], skip_special_tokens=True).strip())
"""


def usage_code(generate: JSON, source_tokens: int) -> str:
    """Return Python that loads the exported model and decodes with a run's settings.

    Args:
        generate: The hashed settings of generate.
        source_tokens: Where documents were cut, special tokens included.
    """
    ids = {
        f"{name}_token_id": f"model.config.{name}_token_id"
        for name in ("bos", "pad", "eos", "decoder_start")
    }
    forced_bos = ids["bos_token_id"] if generate["force_bos"] else "None"
    named = {
        **ids,
        "forced_bos_token_id": forced_bos,
        "forced_eos_token_id": ids["eos_token_id"],
        "do_sample": "False",
        "num_beams": repr(generate["num_beams"]),
        "min_length": repr(generate["min_length"]),
        "max_length": repr(generate["max_length"]),
        "no_repeat_ngram_size": repr(generate["no_repeat_ngram_size"]),
    }
    if generate["num_beams"] > 1:  # greedy search has no use for these, and says so
        named["length_penalty"] = repr(generate["length_penalty"])
        named["early_stopping"] = repr(generate["early_stopping"])
    lines = [f"    {name}={value}," for name, value in named.items()]
    return _CODE.format(settings="\n".join(lines), source_tokens=source_tokens)
