"""Code that summarises as the run did, for the model card."""

from __future__ import annotations

_MODEL = 'name = "export/model"  # in the run directory'
_CODE = f"""\
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

{_MODEL}
tokenizer = AutoTokenizer.from_pretrained(name)
model = AutoModelForSeq2SeqLM.from_pretrained(name)
document = "..."
inputs = tokenizer(
    document,
    split_special_tokens=True,  # the letters </s> of a text do not end it
    truncation=True,
    max_length={{source_tokens}},
    return_tensors="pt",
)
output = model.generate(
    input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
)
print(tokenizer.decode(output[0], skip_special_tokens=True).strip())
"""


def usage_code(source_tokens: int) -> str:
    """Return Python that loads the exported model and decodes by the rules in its generation_config.json.

    Args:
        source_tokens: Where documents are cut, special tokens included.
    """
    return _CODE.format(source_tokens=source_tokens)


def for_repository(card: str, repository: str, branch: str = "main") -> str:
    """Return a card whose code loads the model from a branch of a repository of the Hub instead.

    Raises:
        ValueError: If the card's code does not say where the model is, as `usage_code` does.
    """
    if card.count(_MODEL) != 1:
        raise ValueError("its code has not the line that says where the model is")
    named = card.replace(_MODEL, f'name = "{repository}"')
    if branch == "main":
        return named
    return named.replace("from_pretrained(name)", f'from_pretrained(name, revision="{branch}")')
