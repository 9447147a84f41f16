"""The packaged recipes: what is published is what they say, and each value says where it is from."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from pipeline.config import JSON, Config, diff
from pipeline.errors import EXIT_USAGE
from pipeline.recipe import DEFAULT, packaged_names, resolve
from stages.fetch.config import CatalogueDataset
from stages.fetch.needs import hub_needs
from stages.graph import STAGES
from stages.recipe import SummarizationRecipe
from tests.conftest import CommandLine

PAPER = [name for name in packaged_names() if "bart_large" in name]
R3F = [name for name in PAPER if name.endswith("_r3f")]
TAGGED = re.compile(r"\[(paper|fairseq|ours)\]( |$)")
MADE_HERE = "--set"


class Published(NamedTuple):
    """A recipe's counterpart in print, by hand."""

    max_tokens: int
    """fairseq's --max-tokens: padded tokens of the longer side."""
    share: float
    """Target tokens for one source token."""
    lanes: int
    updates: int
    warmup: int
    rouge: tuple[float, float, float]


BART = Published(2048, 0.1, 8 * 4, 20_000, 500, (44.16, 21.28, 40.90))
PUBLISHED = {
    "cnn_dm_bart_large": BART,
    "cnn_dm_bart_large_r3f": Published(1024, 0.1, 8 * 2, 80_000, 1000, (44.38, 21.53, 41.17)),
    "gigaword_bart_large": Published(2048, 10 / 36, 8, 200_000, 5000, (39.29, 20.09, 35.65)),
    "gigaword_bart_large_r3f": Published(2048, 10 / 36, 8, 200_000, 5000, (40.45, 20.69, 36.56)),
    "reddit_tifu_long_bart_large": Published(
        2048, 27 / 409, 8, 200_000, 5000, (24.19, 8.12, 21.31)
    ),
    "reddit_tifu_long_bart_large_r3f": Published(
        2048, 27 / 409, 8, 200_000, 5000, (30.31, 10.98, 24.74)
    ),
}


def resolved(name: str, *overrides: str) -> SummarizationRecipe:
    own_data = [] if name.startswith(("cnn", "demo")) else ["fetch.dataset.path=/data"]
    recipe, _ = resolve(SummarizationRecipe, name, [*own_data, *overrides])
    assert isinstance(recipe, SummarizationRecipe)
    return recipe


def leaves(section: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    items = section.settings() if isinstance(section, Config) else section
    for name, value in items.items():
        if isinstance(value, (Config, dict)) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def identity(recipe: SummarizationRecipe) -> JSON:
    """What is hashed of a recipe but for its report, with paths where contents are hashed."""
    names = [stage.name for stage in STAGES if stage.name != "report"]
    sections = {name: getattr(recipe, name).identity() for name in names}
    plain: JSON = json.loads(json.dumps(sections, default=str))
    return plain


@pytest.mark.parametrize("name", packaged_names())
def test_every_value_that_a_file_gives_says_where_it_is_from(name: str) -> None:
    sources = resolved(name).sources
    without = {dotted: text for dotted, text in sources.items() if not TAGGED.match(text)}
    assert without.pop("name") == f"{name}.yaml"
    assert set(without.values()) <= {DEFAULT, MADE_HERE}, without


@pytest.mark.parametrize("name", PAPER)
def test_nothing_that_shapes_the_paper_s_figures_is_left_to_a_default(name: str) -> None:
    recipe = resolved(name)
    hashed = {dotted for dotted, _ in leaves(identity(recipe))}
    defaults = {dotted for dotted in hashed if recipe.sources[dotted] == DEFAULT}
    assert defaults == set()


@pytest.mark.parametrize(
    "change",
    ["report.card.licence=apache-2.0", "report.expected.rouge1=50", "report.expected=null"],
)
def test_what_is_told_of_a_run_is_part_of_the_report_s_identity_alone(change: str) -> None:
    whole, other = (resolved("cnn_dm_bart_large_r3f", *more) for more in ((), (change,)))
    assert whole.report.identity() != other.report.identity()
    assert identity(whole) == identity(other)


def test_the_paper_has_its_recipes() -> None:
    assert set(PAPER) == {*PUBLISHED, "cnn_dm_bart_large_r3f_nonoise"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_row_is_expected_of_the_published_metric(name: str) -> None:
    expected = resolved(name).report.expected
    assert expected is not None and "2008.03156" in expected.source
    is_summary_level = name.startswith("cnn_dm")  # else ROUGE-L is that of the whole text
    found = (
        (expected.rougeLsum, None) if is_summary_level else (expected.rougeL, expected.rougeLsum)
    )
    assert (expected.rouge1, expected.rouge2, *found) == (*PUBLISHED[name].rouge, None)
    if is_summary_level:
        assert expected.rougeL is None


@pytest.mark.parametrize("name", PUBLISHED)
def test_lanes_and_tokens_stand_for_the_published_batch(name: str) -> None:
    published, finetune = PUBLISHED[name], resolved(name).finetune
    both_sides = published.max_tokens * (1 + published.share)
    assert finetune.batch.lanes == published.lanes
    assert both_sides <= finetune.batch.lane_tokens < 1.05 * both_sides
    assert (finetune.updates, finetune.schedule.warmup_updates) == published[3:5]
    assert finetune.optimizer.lr == 3e-5


def test_r3f_on_cnn_dm_sees_as_many_tokens_as_bart() -> None:
    """What the recipe gives as the reason for its number of lanes."""
    bart, r3f = (PUBLISHED[name] for name in ("cnn_dm_bart_large", "cnn_dm_bart_large_r3f"))
    tokens = [one.updates * one.lanes * one.max_tokens for one in (bart, r3f)]
    assert tokens[0] == tokens[1] == 1_310_720_000


@pytest.mark.parametrize("name", [*R3F, "cnn_dm_bart_large_r3f_nonoise"])
def test_r3f_is_the_released_one(name: str) -> None:
    r3f = resolved(name).finetune.r3f
    noise = "none" if name.endswith("nonoise") else "uniform"
    assert (r3f.noise, r3f.sigma, r3f.lambda_, r3f.reduction) == (noise, 1e-5, 0.01, "fairseq")


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name not in R3F])
def test_the_baselines_have_no_second_pass(name: str) -> None:
    assert not resolved(name).finetune.r3f.is_on


def test_the_ablation_differs_by_the_noise_alone() -> None:
    ablated, whole = resolved("cnn_dm_bart_large_r3f_nonoise"), resolved("cnn_dm_bart_large_r3f")
    lines = diff(identity(whole), identity(ablated))
    assert lines == ["finetune.r3f.noise uniform -> none"]
    assert ablated.report.expected is None


@pytest.mark.parametrize("task", ["gigaword", "reddit_tifu_long"])
def test_a_pair_differs_by_r3f_alone(task: str) -> None:
    without, with_it = (resolved(f"{task}_bart_large{end}") for end in ("", "_r3f"))
    lines = diff(identity(without), identity(with_it))
    assert lines == ["finetune.r3f.lambda 0.0 -> 0.01"]


@pytest.mark.parametrize("name", R3F)
def test_what_could_not_be_confirmed_is_said_to_be(name: str) -> None:
    """Of the appendix's columns for summarization only Reddit TIFU's is quoted anywhere."""
    sources = resolved(name).sources
    for dotted in ("updates", "schedule.warmup_updates", "batch.lane_tokens", "optimizer.lr"):
        text = sources[f"finetune.{dotted}"]
        assert ("issue 4411" in text) == name.startswith("reddit"), text
        assert ("unconfirmed" in text) != ("issue 4411" in text), text
    for dotted in ("optimizer.betas", "r3f.sigma", "r3f.lambda"):
        assert "unconfirmed" in sources[f"finetune.{dotted}"]
    assert "not known" in sources["finetune.batch.lanes"]


@pytest.mark.parametrize("name", PAPER)
def test_the_rows_are_a_commit_s_and_the_split_is_named(name: str) -> None:
    recipe, _ = resolve(SummarizationRecipe, name, [])
    assert isinstance(recipe, SummarizationRecipe)
    (kind, repository, revision), _ = hub_needs(recipe.fetch)
    assert kind == "dataset" and repository.partition("/")[2].startswith(name.partition("_")[0])
    assert re.fullmatch("[0-9a-f]{40}", revision)
    dataset = recipe.fetch.dataset
    assert isinstance(dataset, CatalogueDataset)
    assert dataset.split == ("pegasus" if name.startswith("reddit") else None)


@pytest.fixture
def sumpipe(command_line: Any) -> CommandLine:
    found: CommandLine = command_line(STAGES, SummarizationRecipe)
    return found


def test_r4f_is_refused_with_the_reason(sumpipe: CommandLine) -> None:
    answer = sumpipe("config", "cnn_dm_bart_large_r3f", "--set", "finetune.r4f.lambda=1.0")
    assert (answer.code, answer.out) == (EXIT_USAGE, "")
    assert answer.err.splitlines()[1].strip() == (
        "finetune: r4f: not offered; R4F bounds the Lipschitz constant of a classification head "
        "(arXiv 2008.03156, section 3.2), and a generator has no such head. Use r3f"
    )


def test_config_shows_sources_and_the_published_row(sumpipe: CommandLine) -> None:
    answer = sumpipe("config", "cnn_dm_bart_large_r3f")
    assert answer.code == 0
    assert "rougeLsum: 41.17" in answer.out
    assert "[fairseq] examples/bart README: 8 GPUs" not in answer.out, "a replaced value's source"
    assert "[ours] the paper's GPUs and update frequency are not known." in " ".join(
        answer.out.replace("''", "'").split()
    )
