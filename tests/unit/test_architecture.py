"""The rules of the house, read from the source: who may import whom, and what lives where."""

from __future__ import annotations

import ast
import functools
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import pipeline
import stages
from pipeline.stage import Stage
from stages.graph import STAGES

CHECKOUT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("pipeline", "stages")
SHARED_BY_STAGES = (
    "stages.decoding",
    "stages.hub_calls",
    "stages.intervals",
    "stages.metrics",
    "stages.names",
    "stages.normalize",
    "stages.rouge_json",
    "stages.schema",
    "stages.text_rules",
    "stages.unicode_words",
    "stages.tokens",
)
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "base", "core", "tools"}
NOT_PACKAGED = {"tests", "benchmarks"}


def module_name(path: Path) -> str:
    parts = path.relative_to(CHECKOUT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    module_name(path): path
    for package in PACKAGES
    for path in sorted((CHECKOUT / package).rglob("*.py"))
}


@functools.cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def imported_names(module: str) -> Iterator[str]:
    """Yield every dotted name that a module imports, wherever in it; `from a import b` is a.b."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def our_imports(module: str) -> set[str]:
    """Return the modules of this project that a module imports."""
    found = set()
    for name in imported_names(module):
        while name and name not in MODULES:
            name = name.rpartition(".")[0]
        if name:
            found.add(name)
    return found - {module}


def is_within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def attribute_path(node: ast.AST) -> str:
    """Return `a.b.c` for an expression of that form, else an empty text."""
    if isinstance(node, ast.Attribute):
        left = attribute_path(node.value)
        return f"{left}.{node.attr}" if left else ""
    return node.id if isinstance(node, ast.Name) else ""


def used_names(module: str) -> set[str]:
    return {*imported_names(module), *(attribute_path(node) for node in ast.walk(tree(module)))}


def users_of(*names: str) -> set[str]:
    """Return the modules that import or reach one of these dotted names."""
    return {
        module
        for module in MODULES
        if any(is_within(used, name) for used in used_names(module) for name in names)
    }


def stage_folder(module: str) -> str | None:
    parts = module.split(".")
    is_inside = (
        parts[0] == "stages" and (CHECKOUT / "stages" / parts[min(1, len(parts) - 1)]).is_dir()
    )
    return ".".join(parts[:2]) if is_inside and len(parts) > 1 else None


def test_the_packages_are_those_of_this_checkout() -> None:
    assert Path(pipeline.__file__).parent == CHECKOUT / "pipeline"
    assert Path(stages.__file__).parent == CHECKOUT / "stages"


def test_the_wheel_packs_the_packages_on_disk() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
    packed = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    on_disk = {path.parent.name for path in CHECKOUT.glob("*/__init__.py")}
    assert set(packed) == set(PACKAGES) == on_disk - NOT_PACKAGED


def test_every_folder_with_code_is_a_package() -> None:
    folders = {path.parent for path in MODULES.values()}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []
    assert all((CHECKOUT / package / "py.typed").is_file() for package in PACKAGES)


def test_the_engine_knows_no_stage() -> None:
    engine = [module for module in MODULES if is_within(module, "pipeline")]
    assert [m for m in engine if any(is_within(name, "stages") for name in imported_names(m))] == []


@pytest.mark.parametrize("module", [module for module in MODULES if stage_folder(module)])
def test_a_stage_is_readable_alone(module: str) -> None:
    home = stage_folder(module)
    assert home is not None
    foreign = {
        name
        for name in our_imports(module)
        if is_within(name, "stages") and not is_within(name, home) and name != "stages"
    }
    assert foreign <= set(SHARED_BY_STAGES)


def test_nothing_imports_in_a_circle() -> None:
    graph = {module: our_imports(module) for module in MODULES}
    finished: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join([*way[way.index(module) :], module])
        if module not in finished:
            for name in sorted(graph[module]):
                visit(name, (*way, module))
            finished.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("name", ["torch.distributed", "deepspeed"])
def test_ranks_live_in_the_distributed_folder(name: str) -> None:
    assert {m for m in users_of(name) if not is_within(m, "pipeline.distributed")} == set()


def test_deepspeed_is_reached_through_one_module() -> None:
    assert users_of("deepspeed") <= {"pipeline.distributed.zero"}


def test_the_environment_is_read_in_one_module() -> None:
    found = users_of("os.environ", "os.environb", "os.getenv", "os.putenv", "os.unsetenv")
    assert found == {"pipeline.distributed.world"}


def test_one_place_imports_by_name() -> None:
    assert users_of("importlib.import_module", "__import__") == {"pipeline.stage"}


@pytest.mark.parametrize("module", MODULES)
def test_no_module_changes_globals(module: str) -> None:
    assert not [node for node in ast.walk(tree(module)) if isinstance(node, ast.Global)]


def test_names_say_what_is_inside() -> None:
    names = {part for module in MODULES for part in module.split(".")}
    assert names & VAGUE_NAMES == set()


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_the_entry_of_every_stage_is_there(stage: Stage) -> None:
    module, _, function = stage.entry.partition(":")
    assert module in MODULES, f"{module} is missing"
    assert is_within(module, f"stages.{stage.name}")
    functions = [node for node in tree(module).body if isinstance(node, ast.FunctionDef)]
    (found,) = [node for node in functions if node.name == function]
    assert [argument.arg for argument in found.args.args] == ["config", "context"]


def test_stages_come_after_their_inputs() -> None:
    names = [stage.name for stage in STAGES]
    assert len(set(names)) == len(names)
    for number, stage in enumerate(STAGES):
        assert set(stage.inputs) <= set(names[:number])
        assert (CHECKOUT / "stages" / stage.name / "config.py").is_file()


def test_a_stage_opens_only_the_inputs_that_it_declares() -> None:
    """`context.inputs["x"]` of an undeclared x would fail hours into a run."""
    for stage in STAGES:
        folder = f"stages.{stage.name}"
        asked = {
            node.slice.value
            for module in MODULES
            if is_within(module, folder)
            for node in ast.walk(tree(module))
            if isinstance(node, ast.Subscript)
            and attribute_path(node.value).endswith("inputs")
            and isinstance(node.slice, ast.Constant)
        }
        assert asked <= set(stage.inputs), stage.name
