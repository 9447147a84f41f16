"""What would run, and why, for every state a run directory can be in."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from pathlib import Path

import pytest

from pipeline.artifact import RunDir
from pipeline.errors import ConfigError, DataError, StaleArtifact
from pipeline.files import sha256_file, write_json
from pipeline.planner import Action, Decision, plan, select
from pipeline.recipe import resolve
from pipeline.runner import HashCache, refuse_stale
from pipeline.stage import Recipe, Stage
from stages.graph import STAGES as REAL_STAGES
from stages.recipe import SummarizationRecipe
from tests.fakes.toy_stages import STAGES, ToyRecipe, snapshot

SKIP, RUN, RESUME = Action.SKIP, Action.RUN, Action.RESUME
STALE, BLOCKED = Action.STALE, Action.BLOCKED


class Graph:
    """A toy run directory whose stages can be finished by hand."""

    def __init__(self, root: Path, recipe: Path) -> None:
        self.run_dir = RunDir(root)
        self.recipe = recipe

    def plan(
        self, *overrides: str, only: tuple[str, ...] = (), redo: tuple[str, ...] = ()
    ) -> dict[str, Decision]:
        recipe, _ = resolve(ToyRecipe, str(self.recipe), overrides)
        selected = [stage for stage in STAGES if stage.name in only] or None
        decisions = plan(STAGES, recipe, self.run_dir, sha256_file, selected, redo)
        return {decision.stage.name: decision for decision in decisions}

    def actions(
        self, *overrides: str, only: tuple[str, ...] = (), redo: tuple[str, ...] = ()
    ) -> list[Action]:
        return [item.action for item in self.plan(*overrides, only=only, redo=redo).values()]

    def reasons(self, *overrides: str) -> list[str]:
        return [item.reason for item in self.plan(*overrides).values()]

    def finish(self, *names: str) -> None:
        decisions = self.plan()
        for name in names:
            finish(self.run_dir, decisions[name])


def finish(run_dir: RunDir, decision: Decision) -> None:
    name = decision.stage.name
    (run_dir.open_partial(name, decision.payload) / "out.txt").write_text(name, encoding="utf-8")
    run_dir.commit(name, decision.payload, {}, {})


@pytest.fixture
def graph(tmp_path: Path, toy_recipe: Path) -> Graph:
    return Graph(tmp_path / "run", toy_recipe)


@pytest.fixture
def done(graph: Graph) -> Graph:
    graph.finish("a", "b", "c")
    return graph


def test_an_empty_place_needs_everything_and_is_left_empty(graph: Graph) -> None:
    assert graph.actions() == [RUN, RUN, RUN]
    assert not graph.run_dir.root.exists()


def test_finished_stages_are_skipped(graph: Graph) -> None:
    graph.finish("a")
    assert graph.actions() == [SKIP, RUN, RUN]
    graph.finish("b", "c")
    assert graph.actions() == [SKIP, SKIP, SKIP]


def test_planning_writes_nothing(done: Graph) -> None:
    before = snapshot(done.run_dir.root)
    done.plan("a.value=5", redo=("b", "c"))
    assert snapshot(done.run_dir.root) == before


def test_partial_work_is_resumed_from_where_it_is(graph: Graph) -> None:
    graph.finish("a")
    graph.run_dir.open_partial("b", graph.plan()["b"].payload)
    assert graph.actions() == [SKIP, RESUME, RUN]
    write_json_progress(graph.run_dir, "b", done=3, total=7)
    assert "3/7" in graph.reasons()[1]


def write_json_progress(run_dir: RunDir, stage: str, done: int, total: int) -> None:
    run_dir.logs(stage).mkdir(parents=True, exist_ok=True)
    state = {"done": done, "total": total, "unit": "shard", "utc": "2026-01-01", "figures": {}}
    write_json(run_dir.progress(stage), state)


def test_partial_work_of_other_settings_is_stale(graph: Graph) -> None:
    graph.finish("a")
    graph.run_dir.open_partial("b", graph.plan()["b"].payload)
    assert graph.actions("b.units=9") == [SKIP, STALE, BLOCKED]
    assert "b.units 4 -> 9" in graph.reasons("b.units=9")[1]


def test_a_changed_setting_is_the_root_cause_told_at_every_later_stage(done: Graph) -> None:
    assert done.actions("a.value=2.5") == [STALE, STALE, STALE]
    assert done.reasons("a.value=2.5") == ["a.value 1.0 -> 2.5"] * 3


def test_two_changed_settings_are_both_told(done: Graph) -> None:
    a, b, c = done.reasons("a.value=2.5", "c.scale=3")
    assert (a, b) == ("a.value 1.0 -> 2.5",) * 2
    assert set(c.split("; ")) == {"a.value 1.0 -> 2.5", "c.scale 2.0 -> 3.0"}


def test_a_changed_setting_leaves_earlier_stages_alone(done: Graph) -> None:
    assert done.actions("b.units=9") == [SKIP, STALE, STALE]
    assert done.actions("c.scale=9") == [SKIP, SKIP, STALE]


def test_stages_after_a_stale_one_are_blocked_if_they_are_not_done(graph: Graph) -> None:
    graph.finish("a", "b")
    assert graph.actions("b.units=9") == [SKIP, STALE, BLOCKED]


def test_a_seed_reaches_the_stages_that_use_it(done: Graph) -> None:
    assert done.actions("seed=2") == [STALE, STALE, STALE]
    assert "seed 1 -> 2" in done.reasons("seed=2")[2]


def test_the_name_of_a_recipe_and_execution_settings_change_nothing(done: Graph) -> None:
    before = {name: item.fingerprint for name, item in done.plan().items()}
    overrides = ("name=other", "a.comment=hello", "b.stop_after=2", "c.complaint=x")
    assert done.actions(*overrides) == [SKIP, SKIP, SKIP]
    assert {name: item.fingerprint for name, item in done.plan(*overrides).items()} == before


def test_a_raised_stage_version_is_a_change(done: Graph) -> None:
    recipe, _ = resolve(ToyRecipe, str(done.recipe), [])
    a, b, c = STAGES
    raised = Stage(b.name, b.version + 1, b.inputs, b.entry)
    decisions = plan((a, raised, c), recipe, done.run_dir, sha256_file)
    assert [item.action for item in decisions] == [SKIP, STALE, STALE]
    assert "version 1 -> 2" in decisions[1].reason


def test_a_moved_run_directory_is_still_done(done: Graph, tmp_path: Path) -> None:
    done.run_dir.root.rename(tmp_path / "moved run")
    assert Graph(tmp_path / "moved run", done.recipe).actions() == [SKIP, SKIP, SKIP]


def test_a_deleted_intermediate_that_nobody_needs_is_not_rebuilt(done: Graph) -> None:
    done.run_dir.remove("a")
    assert done.actions() == [SKIP, SKIP, SKIP]


def test_a_deleted_intermediate_that_a_missing_stage_reads_is_rebuilt(done: Graph) -> None:
    done.run_dir.remove("a")
    done.run_dir.remove("c")
    assert done.actions() == [RUN, SKIP, RUN]
    done.finish("a", "c")
    assert done.actions() == [SKIP, SKIP, SKIP]


@pytest.mark.parametrize("kept", list(itertools.product([False, True], repeat=3)), ids=str)
def test_exactly_what_the_last_stage_needs_is_built(kept: tuple[bool, ...], done: Graph) -> None:
    is_kept = dict(zip("abc", kept, strict=True))
    for name, stays in is_kept.items():
        if not stays:
            done.run_dir.remove(name)
    needed: set[str] = set()
    queue = ["c"]
    while queue:
        name = queue.pop()
        if not is_kept[name]:
            needed.add(name)
            queue += next(stage.inputs for stage in STAGES if stage.name == name)
    assert done.actions() == [RUN if name in needed else SKIP for name in "abc"]


def test_stages_asked_for_anew_run_and_earlier_ones_do_not(done: Graph) -> None:
    assert done.actions(redo=("b", "c")) == [SKIP, RUN, RUN]
    assert done.actions("b.units=9", redo=("b", "c")) == [SKIP, RUN, RUN]
    assert done.actions("a.value=9", redo=("b", "c")) == [STALE, BLOCKED, BLOCKED]


def test_a_selection_whose_input_is_missing_is_blocked(graph: Graph) -> None:
    assert graph.actions(only=("b",)) == [BLOCKED]
    assert "needs a" in graph.plan(only=("b",))["b"].reason
    graph.finish("a")
    assert graph.actions(only=("b",)) == [RUN]
    assert graph.actions(only=("b", "c")) == [RUN, RUN]


def test_a_stale_stage_is_told_of_though_it_is_not_selected(done: Graph) -> None:
    found = done.plan("c.scale=9", only=("a", "b"))
    assert {name: item.action for name, item in found.items()} == {"a": SKIP, "b": SKIP, "c": STALE}
    assert done.actions("c.scale=9", only=("a", "b"), redo=("c",)) == [SKIP, SKIP]
    assert done.actions(only=("a", "b")) == [SKIP, SKIP]


@pytest.mark.parametrize(
    ("first", "last", "names"),
    [(None, None, "abc"), ("b", None, "bc"), (None, "b", "ab"), ("b", "b", "b")],
)
def test_a_range_has_both_its_ends(first: str | None, last: str | None, names: str) -> None:
    assert "".join(stage.name for stage in select(STAGES, first, last)) == names


@pytest.mark.parametrize(("first", "last"), [("x", None), (None, "x"), ("", None), ("c", "a")])
def test_a_range_that_cannot_be_is_refused(first: str | None, last: str | None) -> None:
    with pytest.raises(ConfigError):
        select(STAGES, first, last)


def test_an_unknown_stage_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'x'.*a, b, c"):
        select(STAGES, "x", None)


def test_stale_work_is_refused_with_the_change_and_a_way_out(done: Graph) -> None:
    stale = list(done.plan("b.units=9").values())
    with pytest.raises(StaleArtifact) as failure:
        refuse_stale(stale, done.run_dir)
    message = str(failure.value)
    assert "b.units 4 -> 9" in message
    assert "--restart-from b" in message
    assert str(done.run_dir.root) in message
    assert failure.value.exit_code == 3


def test_the_way_out_of_a_plan_is_its_first_stale_stage(done: Graph) -> None:
    with pytest.raises(StaleArtifact, match="--restart-from a"):
        refuse_stale(list(done.plan("a.value=9", "c.scale=1").values()), done.run_dir)
    refuse_stale(list(done.plan().values()), done.run_dir)


def real_recipe(folder: Path, *overrides: str) -> tuple[Recipe, str]:
    path = f"fetch.dataset={json.dumps({'source': 'local', 'path': str(folder)})}"
    return resolve(SummarizationRecipe, "demo", [path, *overrides])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    row = json.dumps({"document": "A long text.", "summary": "Short."}) + "\n"
    for split in ("train", "valid", "test"):
        (folder / f"{split}.jsonl").write_text(row, encoding="utf-8")
    return folder


@pytest.fixture
def fetched(data: Path, tmp_path: Path) -> RunDir:
    """A run directory of the real graph in which fetch is done on local files."""
    run_dir = RunDir(tmp_path / "run")
    recipe, text = real_recipe(data)
    finish(run_dir, plan(REAL_STAGES, recipe, run_dir, sha256_file)[0])
    run_dir.recipe.write_text(text, encoding="utf-8")
    return run_dir


def first_decision(folder: Path, run_dir: RunDir, *overrides: str) -> Decision:
    cache = HashCache(run_dir.hash_cache)
    decision = plan(REAL_STAGES, real_recipe(folder, *overrides)[0], run_dir, cache)[0]
    cache.save()
    return decision


def test_moved_data_is_the_same_data(data: Path, fetched: RunDir, tmp_path: Path) -> None:
    assert first_decision(data, fetched).action is SKIP
    data.rename(tmp_path / "data elsewhere")
    assert first_decision(tmp_path / "data elsewhere", fetched).action is SKIP


def test_a_file_whose_name_is_no_utf_8_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / os.fsdecode(b"caf\xe9.jsonl")
    file.write_bytes(b"x")
    cache = HashCache(tmp_path / "hashes.json")
    checksum = cache(file)
    cache.save()
    monkeypatch.delattr("pipeline.runner.sha256_file")
    assert HashCache(tmp_path / "hashes.json")(file) == checksum


def test_a_file_that_keeps_its_length_and_is_given_its_old_time_is_read_again(
    tmp_path: Path,
) -> None:
    """As `sed -i` with `touch -r` do, or `rsync -t` from a copy that was restored."""
    file, cache = tmp_path / "data.jsonl", HashCache(tmp_path / "hashes.json")
    file.write_bytes(b"x")
    times = file.stat()
    assert cache(file) == hashlib.sha256(b"x").hexdigest()
    while file.stat().st_ctime_ns == times.st_ctime_ns:  # a clock may tick in milliseconds
        file.write_bytes(b"y")
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert cache(file) == hashlib.sha256(b"y").hexdigest()


def test_touched_data_is_the_same_data(data: Path, fetched: RunDir) -> None:
    first_decision(data, fetched)
    os.utime(data / "train.jsonl", (1, 1))
    assert first_decision(data, fetched).action is SKIP


@pytest.mark.parametrize("new", ["A wrong text.", "A longer text than before."], ids=len)
def test_data_edited_in_place_is_noticed_by_file(new: str, data: Path, fetched: RunDir) -> None:
    first_decision(data, fetched)
    text = (data / "valid.jsonl").read_text(encoding="utf-8")
    (data / "valid.jsonl").write_text(text.replace("A long text.", new), encoding="utf-8")
    decision = first_decision(data, fetched)
    assert decision.action is STALE
    assert "valid.jsonl" in decision.reason
    assert "train.jsonl" not in decision.reason


def test_data_that_changes_its_format_is_other_data(data: Path, fetched: RunDir) -> None:
    (data / "valid.jsonl").unlink()
    (data / "valid.csv").write_text("document,summary\nA,B\n", encoding="utf-8")
    assert first_decision(data, fetched).action is STALE


@pytest.mark.parametrize("override", ["name=other", "finetune.updates=177"])
def test_a_finished_fetch_outlives_its_source(
    override: str, data: Path, fetched: RunDir, tmp_path: Path
) -> None:
    committed = first_decision(data, fetched)
    data.rename(tmp_path / "elsewhere")
    decision = first_decision(data, fetched, override)
    assert decision.action is SKIP
    assert "not compared with its source, which is gone" in decision.reason
    assert decision.fingerprint == committed.fingerprint


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("fetch.model.d_model=512", "fetch.model.d_model 128 -> 512"),
        ("fetch.dataset.columns.document=text", "fetch.dataset.columns.document document -> text"),
        ("fetch.dataset.on_bad_row=record", "fetch.dataset.on_bad_row fail -> record"),
        ("fetch.dataset.path=/of/another", "-> /of/another"),
        ("seed=2", "seed 1 -> 2"),
    ],
)
def test_without_the_source_everything_but_its_contents_is_compared(
    override: str, told: str, data: Path, fetched: RunDir, tmp_path: Path
) -> None:
    data.rename(tmp_path / "elsewhere")
    decision = first_decision(data, fetched, override)
    assert decision.action is STALE
    assert told in decision.reason
    assert "its source is gone" in decision.reason and "is not a folder" in decision.reason


def test_without_source_and_record_nothing_is_known(data: Path, fetched: RunDir) -> None:
    data.rename(data.with_name("elsewhere"))
    fetched.recipe.unlink()
    with pytest.raises(DataError, match="is not a folder"):
        first_decision(data, fetched)
