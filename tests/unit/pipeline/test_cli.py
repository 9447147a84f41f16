"""The command line, end to end on the toy graph, and the real one as far as it needs no stage."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from pipeline.artifact import RunDir
from pipeline.cli import build_app
from pipeline.errors import EXIT_DONE, EXIT_FAILED, EXIT_STALE, EXIT_USAGE
from pipeline.stage import Figure, Forecast, ForecastContext
from stages.__main__ import COMMANDS
from stages.graph import STAGES
from stages.recipe import SummarizationRecipe
from tests.conftest import CommandLine
from tests.fakes.toy_stages import CHECKOUT, BConfig, ToyRecipe, snapshot, start, wait_until
from tests.fakes.toy_stages import STAGES as TOY_STAGES

HEAVY = ("torch", "transformers", "deepspeed", "datasets", "tokenizers", "pyarrow", "nltk")
PROGRAM = Path(sys.executable).parent / "sumpipe"

OPTIONS = {
    "run": {
        "recipe", "--run-dir", "--set", "--from", "--to", "--only", "--restart-from",
        "--processes", "--ds-config", "--cache-dir", "--dry-run",
    },
    "join": {"run_dir", "stage", "--processes"},
    "plan": {
        "recipe", "--run-dir", "--set", "--processes", "--ds-config", "--probe", "--cache-dir",
        "--json",
    },
    "doctor": {"recipe", "--run-dir", "--set", "--ds-config", "--json"},
    "submit": {
        "recipe", "--run-dir", "--set", "--ds-config", "--site", "--nodes", "--gpus-per-node", "--gpu-type",
        "--tasks-per-node", "--cpus-per-task", "--mem-per-cpu", "--time", "--partition", "--account",
        "--qos", "--constraint", "--sbatch", "--python", "--restart-from", "--dry-run",
    },
    "cancel": {"run_dir"},
    "drill": {
        "recipe", "--dir", "--processes", "--ds-config", "--limit", "--json", "--slurm", "--site",
        "--nodes", "--gpus-per-node", "--gpu-type", "--tasks-per-node", "--cpus-per-task",
        "--mem-per-cpu", "--time", "--partition", "--account", "--qos", "--constraint", "--sbatch",
        "--python",
    },
    "trace": {"run_dir", "row", "--json"},
    "score": {
        "predictions", "references", "--profile", "--sentences", "--wordnet", "--out", "--seed",
        "--processes", "--json",
    },
    "compare": {
        "runs", "--system", "--profile", "--part", "--by", "--seeds", "--seed", "--json",
    },
    "report": {"runs", "--out", "-o"},
    "push": {
        "run_dir", "repository", "--private", "--revision", "--message", "--overwrite", "--dry-run",
    },
    "status": {"run_dir", "--json", "--deep"},
    "config": {"recipe", "--set"},
    "summarize": {
        "model", "file", "--input-format", "--field", "--output", "-o", "--output-format",
        "--num-beams", "--min-length", "--max-length", "--length-penalty",
        "--no-repeat-ngram-size", "--precision", "--batch-tokens", "--processes", "--device",
        "--truncation", "--quiet", "-q",
    },
}  # fmt: skip
"""The whole command line; what is added here must be kept for good."""


def test_the_command_line_is_what_was_promised() -> None:
    command = get_command(
        build_app(STAGES, SummarizationRecipe, "stages.rank", "Fine-tune", COMMANDS)
    )
    assert isinstance(command, typer.core.TyperGroup)
    found = {
        name: {
            option if option.startswith("-") else parameter.name
            for parameter in child.params
            for option in parameter.opts
            if option != "--help"
        }
        for name, child in command.commands.items()
    }
    assert found == OPTIONS


LIGHT = f"""
import sys
from stages.__main__ import main
try:
    main()
except SystemExit as stop:
    heavy = [name for name in {HEAVY} if name in sys.modules]
    print(heavy, len(sys.modules) < 750, file=sys.stderr)  # 510 to 620 modules: well under a second
    sys.exit(stop.code)
"""


@pytest.mark.parametrize("command", ["--help", "plan", "config", "status", "summarize"])
def test_looking_loads_nothing_heavy_and_not_much_else(command: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("name: any\n", encoding="utf-8")
    arguments = {
        "--help": ["--help"],
        "plan": ["plan", "demo", "--run-dir", str(tmp_path / "run")],
        "config": ["config", "demo"],
        "status": ["status", str(tmp_path)],
        "summarize": ["summarize", "--help"],
    }[command]
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, *arguments], capture_output=True, text=True, check=False
    )
    assert done.stdout
    assert done.stderr == "[] True\n"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["config", "demo"], EXIT_DONE), (["config", "demo", "--set", "nmae=x"], EXIT_USAGE)],
)
def test_the_installed_program_exits_as_documented(arguments: list[str], code: int) -> None:
    done = subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert ("did you mean name?" in done.stderr) == (code == EXIT_USAGE)


MISTAKES: dict[str, tuple[list[str], int, list[str]]] = {
    "no recipe": (["run", "nope", "--run-dir", "DIR"], 2, ["nope", "demo"]),
    "no run dir": (["run", "demo"], 2, ["--run-dir"]),
    "a typing error": (["config", "demo", "--set", "finetune.optimzer.lr=1"], 2, ["optimizer"]),
    "no equals sign": (["config", "demo", "--set", "seed"], 2, ["section.key=value"]),
    "unknown stage": (["run", "demo", "--run-dir", "DIR", "--from", "train"], 2, ["finetune"]),
    "empty range": (
        ["run", "demo", "--run-dir", "DIR", "--from", "score", "--to", "clean"], 2, ["after clean"],
    ),
    "only and from": (
        ["run", "demo", "--run-dir", "DIR", "--only", "clean", "--from", "clean"], 2, ["--only"],
    ),
    "missing input": (["run", "demo", "--run-dir", "DIR", "--only", "clean"], 2, ["needs fetch"]),
    "unknown profile": (["run", "demo", "--run-dir", "DIR", "--ds-config", "zero9"], 2, ["zero2"]),
    "no processes": (["run", "demo", "--run-dir", "DIR", "--processes", "0"], 2, ["--processes"]),
    "no model": (["summarize", "DIR"], 2, ["DIR", "config.json", "hf download"]),
    "no beams": (["summarize", "DIR", "--num-beams", "0"], 2, ["--num-beams"]),
    "unknown command": (["train", "demo"], 2, ["train"]),
    "unknown option": (["plan", "demo", "--run-dir", "DIR", "--force"], 2, ["--force"]),
    "no such run": (["status", "DIR"], 2, ["DIR"]),
    "no data": (
        ["plan", "demo", "--run-dir", "DIR", "--set", "fetch.dataset={source: local, path: /no}"],
        1, ["/no", "train"],
    ),
    "recipe is a folder": (["config", "."], 2, ["neither a file"]),
    "run dir is a file": (["run", "demo", "--run-dir", "FILE"], -1, ["FILE"]),
    "run dir is below a file": (["run", "demo", "--run-dir", "FILE/run"], -1, ["FILE"]),
    "plan for an unknown profile": (
        ["plan", "demo", "--run-dir", "DIR", "--ds-config", "zero9"], 2, ["zero2"],
    ),
    "plan with no processes": (
        ["plan", "demo", "--run-dir", "DIR", "--processes", "0"], 2, ["--processes"],
    ),
    "plan in a file": (["plan", "demo", "--run-dir", "FILE/run"], 0, []),
    "run dir has too long a name": (["run", "demo", "--run-dir", "LONG"], -1, ["too long"]),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_a_message_and_an_exit_code(
    mistake: str, sumpipe: CommandLine, tmp_path: Path
) -> None:
    """-1 stands for either of failed (1) and usage (2)."""
    arguments, code, told = MISTAKES[mistake]
    (tmp_path / "file").touch()
    words = {"DIR": str(tmp_path / "run"), "FILE": str(tmp_path / "file")}
    words["LONG"] = str(tmp_path / ("x" * 300))

    def fill(text: str) -> str:
        for word, value in words.items():
            text = text.replace(word, value)
        return text

    answer = sumpipe(*map(fill, arguments))
    assert answer.code == code or (code == -1 and answer.code in (EXIT_FAILED, EXIT_USAGE))
    assert "Traceback" not in answer.err
    assert all(fill(text) in answer.err for text in told), answer.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("variable", ["-1", "two"])
def test_a_bad_thread_count_is_told_before_any_work(
    variable: str, sumpipe: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUMPIPE_THREADS", variable)
    answer = sumpipe("run", "demo", "--run-dir", tmp_path / "run")
    assert answer.code in (EXIT_FAILED, EXIT_USAGE)
    assert "SUMPIPE_THREADS" in answer.err


def forecast_b(config: BConfig, context: ForecastContext) -> Forecast:
    inputs, processes = sorted(context.inputs), context.execution.processes
    text = f"{config.units} for {processes} processes, inputs {inputs}"
    value = context.recipe["a"]["value"]
    details = {"units": config.units, "inputs": inputs, "seed": context.seed, "value": value}
    return Forecast((Figure("units", text, "exact"),), details)


def probe_b(config: BConfig, _context: ForecastContext) -> Forecast:
    return Forecast((Figure("units", str(config.units), "measured"),), {"units": config.units})


FORECASTING = tuple(
    dataclasses.replace(stage, forecast=f"{__name__}:forecast_b", probe=f"{__name__}:probe_b")
    if stage.name == "b"
    else stage
    for stage in TOY_STAGES
)


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "run")


def test_a_run_makes_every_stage_and_says_its_result(
    toy: CommandLine, toy_recipe: Path, run_dir: RunDir
) -> None:
    answer = toy("run", toy_recipe, "--run-dir", run_dir.root)
    assert (answer.code, answer.out) == (EXIT_DONE, "total 12.0\n")
    for name in "abc":
        artifact = run_dir.artifact(name)
        assert artifact is not None
        assert artifact.faults(deep=True) == []
        assert artifact.manifest.provenance["launch"]["processes"] == 1
    assert run_dir.recipe.is_file()
    assert not run_dir.lease.exists()


def test_a_second_run_does_nothing_at_all(
    toy: CommandLine, toy_recipe: Path, run_dir: RunDir
) -> None:
    toy("run", toy_recipe, "--run-dir", run_dir.root)
    before = snapshot(run_dir.root)
    answer = toy("run", toy_recipe, "--run-dir", run_dir.root)
    assert answer.code == EXIT_DONE
    assert "Everything is done" in answer.out
    assert snapshot(run_dir.root) == before


def test_two_runs_of_one_recipe_have_the_same_artifacts(
    toy: CommandLine, toy_recipe: Path, tmp_path: Path
) -> None:
    made = []
    for name in ("first", "second run"):
        run_dir = RunDir(tmp_path / name)
        toy("run", toy_recipe, "--run-dir", run_dir.root, "--processes", "2")
        artifacts = [run_dir.artifact(name) for name in "abc"]
        made.append(
            [(item.manifest.fingerprint, item.manifest.files) for item in artifacts if item]
        )
    assert len(made[0]) == 3
    assert made[0] == made[1]


def test_a_dry_run_writes_nothing(toy: CommandLine, toy_recipe: Path, run_dir: RunDir) -> None:
    answer = toy("run", toy_recipe, "--run-dir", run_dir.root, "--dry-run")
    assert answer.code == EXIT_DONE
    assert answer.out.count("RUN") == 3
    assert not run_dir.root.exists()


def test_a_forecast_is_told_only_while_its_stage_is_to_be_done(
    command_line: Callable[..., CommandLine], toy_recipe: Path, run_dir: RunDir
) -> None:
    toy = command_line(FORECASTING, ToyRecipe)
    arguments = (toy_recipe, "--run-dir", run_dir.root, "--processes", "3")
    lines = toy("plan", *arguments).out.splitlines()
    assert lines[-2:] == ["b", "units  exact  4 for 3 processes, inputs []"]
    assert toy("run", *arguments, "--dry-run").out == toy("plan", *arguments).out
    toy("run", *arguments, "--to", "a")
    told = {row["stage"]: row for row in json.loads(toy("plan", *arguments, "--json").out)}
    assert told["b"]["forecast"] == {"units": 4, "inputs": ["a"], "seed": 1, "value": 1.0}
    assert "forecast" not in told["a"] and "forecast" not in told["c"]
    toy("run", *arguments)
    answer = toy("plan", *arguments)
    assert "units" not in answer.out
    assert "forecast" not in toy("plan", *arguments, "--json").out


def test_a_stale_input_is_no_input_of_a_forecast(
    command_line: Callable[..., CommandLine], toy_recipe: Path, run_dir: RunDir
) -> None:
    toy = command_line(FORECASTING, ToyRecipe)
    arguments = (toy_recipe, "--run-dir", run_dir.root)
    toy("run", *arguments, "--to", "a")
    restart = (*arguments, "--set", "a.value=3", "--restart-from", "a", "--dry-run")
    assert "inputs []" in toy("run", *restart).out


def test_a_probe_is_made_when_it_is_asked_for(
    command_line: Callable[..., CommandLine], toy_recipe: Path, run_dir: RunDir
) -> None:
    toy = command_line(FORECASTING, ToyRecipe)
    arguments = ("plan", toy_recipe, "--run-dir", run_dir.root, "--probe")
    assert "units  measured  4" in toy(*arguments).out
    (told,) = [row for row in json.loads(toy(*arguments, "--json").out) if "probe" in row]
    assert (told["stage"], told["probe"]) == ("b", {"units": 4})


def test_a_probe_of_nothing_is_refused(toy: CommandLine, toy_recipe: Path, run_dir: RunDir) -> None:
    answer = toy("plan", toy_recipe, "--run-dir", run_dir.root, "--probe")
    assert answer.code == EXIT_USAGE
    assert "--probe" in answer.err


def test_a_dry_run_of_a_restart_deletes_nothing(
    toy: CommandLine, toy_recipe: Path, run_dir: RunDir
) -> None:
    toy("run", toy_recipe, "--run-dir", run_dir.root)
    before = snapshot(run_dir.root)
    toy("run", toy_recipe, "--run-dir", run_dir.root, "--restart-from", "a", "--dry-run")
    assert snapshot(run_dir.root) == before


def test_a_dry_run_says_what_a_run_then_does(
    toy: CommandLine, toy_recipe: Path, run_dir: RunDir
) -> None:
    toy("run", toy_recipe, "--run-dir", run_dir.root, "--to", "b")
    arguments = (toy_recipe, "--run-dir", run_dir.root)
    assert toy("run", *arguments, "--dry-run").out == toy("plan", *arguments).out


def test_changed_settings_are_refused_and_nothing_is_lost(
    toy: CommandLine, toy_recipe: Path, run_dir: RunDir
) -> None:
    toy("run", toy_recipe, "--run-dir", run_dir.root)
    before = snapshot(run_dir.root)
    answer = toy("run", toy_recipe, "--run-dir", run_dir.root, "--set", "b.units=6")
    assert answer.code == EXIT_STALE
    assert "b.units 4 -> 6" in answer.err
    assert "--restart-from b" in answer.err
    assert snapshot(run_dir.root) == before


@pytest.mark.parametrize("begun", ["committed", "partial"])
def test_a_recipe_is_not_changed_under_stages_that_are_not_selected(
    begun: str, toy: CommandLine, toy_recipe: Path, run_dir: RunDir
) -> None:
    """Else a page would tell of one training under the name and settings of another."""
    stop = ("--set", "b.stop_after=2") if begun == "partial" else ()
    toy("run", toy_recipe, "--run-dir", run_dir.root, *stop)
    before = snapshot(run_dir.root)
    change = ("--set", "b.units=6", "--to", "a")
    answer = toy("run", toy_recipe, "--run-dir", run_dir.root, *change)
    assert answer.code == EXIT_STALE
    assert "b.units 4 -> 6" in answer.err and "--restart-from b" in answer.err
    assert snapshot(run_dir.root) == before
    answer = toy("run", toy_recipe, "--run-dir", run_dir.root, *change, "--restart-from", "b")
    assert answer.code == EXIT_DONE
    assert "units: 6" in run_dir.recipe.read_text(encoding="utf-8")
    assert not run_dir.committed("b").exists() and not run_dir.partial("b").exists()


def test_a_restart_makes_a_stage_and_what_follows_anew(
    toy: CommandLine, toy_recipe: Path, run_dir: RunDir
) -> None:
    toy("run", toy_recipe, "--run-dir", run_dir.root)
    kept, old = snapshot(run_dir.committed("a")), run_dir.artifact("c")
    change = ("--set", "b.units=3")
    answer = toy("run", toy_recipe, "--run-dir", run_dir.root, *change, "--restart-from", "b")
    assert (answer.code, answer.out) == (EXIT_DONE, "total 6.0\n")
    assert snapshot(run_dir.committed("a")) == kept
    assert old != run_dir.artifact("c")
    assert toy("run", toy_recipe, "--run-dir", run_dir.root, *change).code == EXIT_DONE
    assert not list(run_dir.root.glob(".removed*"))


def test_a_restart_that_cannot_start_deletes_nothing(
    toy: CommandLine, toy_recipe: Path, run_dir: RunDir
) -> None:
    toy("run", toy_recipe, "--run-dir", run_dir.root)
    before = snapshot(run_dir.root)
    change = ("--set", "a.value=3")
    answer = toy("run", toy_recipe, "--run-dir", run_dir.root, *change, "--restart-from", "b")
    assert answer.code == EXIT_STALE
    assert snapshot(run_dir.root) == before


@pytest.mark.parametrize(
    ("selection", "made"),
    [(("--to", "b"), "ab"), (("--only", "a"), "a"), (("--from", "a", "--to", "a"), "a")],
)
def test_a_selection_makes_its_stages_only(
    selection: tuple[str, ...], made: str, toy: CommandLine, toy_recipe: Path, run_dir: RunDir
) -> None:
    assert toy("run", toy_recipe, "--run-dir", run_dir.root, *selection).code == EXIT_DONE
    assert "".join(name for name in "abc" if run_dir.artifact(name)) == made
    assert toy("run", toy_recipe, "--run-dir", run_dir.root).out == "total 12.0\n"


def test_a_failing_stage_keeps_finished_ones_and_its_message(
    toy: CommandLine, toy_recipe: Path, run_dir: RunDir
) -> None:
    complaint = ("--set", "c.complaint=row 7 of train.csv has no summary")
    answer = toy("run", toy_recipe, "--run-dir", run_dir.root, *complaint)
    assert answer.code == EXIT_FAILED
    assert "row 7 of train.csv has no summary" in answer.err
    assert "Traceback" not in answer.err
    kept = {name: snapshot(run_dir.committed(name)) for name in "ab"}
    assert toy("run", toy_recipe, "--run-dir", run_dir.root).code == EXIT_DONE
    assert {name: snapshot(run_dir.committed(name)) for name in "ab"} == kept


def test_a_killed_run_continues_at_once_with_its_finished_units(
    toy: CommandLine, toy_recipe: Path, run_dir: RunDir
) -> None:
    with start("run", toy_recipe, "--run-dir", run_dir.root, "--set", "b.die_after=2") as process:
        process.communicate(timeout=20)
    assert process.returncode == -signal.SIGKILL
    kept = snapshot(run_dir.partial("b"))
    assert {"unit0.txt", "unit1.txt"} <= kept.keys()
    answer = toy("run", toy_recipe, "--run-dir", run_dir.root)
    assert (answer.code, answer.out) == (EXIT_DONE, "total 12.0\n")
    after = snapshot(run_dir.committed("b"))
    assert {name: after[name] for name in kept} == kept


def test_a_second_process_is_refused_while_the_first_works(
    toy: CommandLine, toy_recipe: Path, run_dir: RunDir, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    arguments = ("run", toy_recipe, "--run-dir", run_dir.root)
    with start(*arguments, "--set", f"b.wait_for={gate}") as process:
        wait_until(run_dir.partial("b") / "unit0.txt")
        answer = toy(*arguments)
        gate.touch()
        _, err = process.communicate(timeout=20)
    assert answer.code == EXIT_FAILED
    assert f"pid {process.pid}" in answer.err
    assert process.returncode == EXIT_DONE, err


def test_damage_found_by_a_later_stage_names_the_way_out(
    toy: CommandLine, toy_recipe: Path, run_dir: RunDir
) -> None:
    toy("run", toy_recipe, "--run-dir", run_dir.root, "--to", "a")
    (run_dir.committed("a") / "value.txt").write_text("", encoding="utf-8")
    answer = toy("run", toy_recipe, "--run-dir", run_dir.root)
    assert answer.code == EXIT_FAILED
    assert "--restart-from a" in answer.err
    answer = toy("run", toy_recipe, "--run-dir", run_dir.root, "--restart-from", "a")
    assert answer.code == EXIT_DONE


def test_outside_data_is_hashed_once_and_remembered(
    toy: CommandLine, toy_recipe: Path, run_dir: RunDir, tmp_path: Path
) -> None:
    """Planning again must not read a large data set again while its files are untouched."""
    data = tmp_path / "data.bin"
    data.write_bytes(b"first")
    arguments = (toy_recipe, "--run-dir", run_dir.root, "--set", f"a.data={data}")
    assert toy("run", *arguments).code == EXIT_DONE
    assert run_dir.hash_cache.is_file()
    assert "RUN" not in toy("plan", *arguments).out
    time.sleep(0.01)
    data.write_bytes(b"other")
    assert toy("run", *arguments).code == EXIT_STALE


@pytest.mark.parametrize("name", ["with space", "quo'te\"s", "new\nline", "\u00e4-\u65e5", "$HOME"])
def test_any_run_directory_name_works(
    name: str, toy: CommandLine, toy_recipe: Path, tmp_path: Path
) -> None:
    root = tmp_path / name
    assert toy("run", toy_recipe, "--run-dir", root).out == "total 12.0\n"
    assert toy("status", root, "--deep").code == EXIT_DONE
    assert toy("plan", toy_recipe, "--run-dir", root).out.count("SKIP") == 3


def mounted(
    folder: Path, mount: str, command: list[str | Path]
) -> subprocess.CompletedProcess[str]:
    """Run a command with something mounted at `folder`, seen by that command alone."""
    script = f'folder="$1"; shift; {mount} && exec "$@"'
    whole = ["unshare", "-m", "sh", "-c", script, "sh", folder, *command]
    return subprocess.run(
        whole, capture_output=True, text=True, cwd=CHECKOUT, timeout=60, check=False
    )


@pytest.fixture
def mount_point(tmp_path: Path) -> Path:
    """A folder that something can be mounted at, or a skip with the reason."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    probe = mounted(folder, 'mount -t tmpfs -o size=64k none "$folder"', ["true"])
    if probe.returncode != 0:
        pytest.skip(f"no mount namespaces here: {probe.stderr.strip()}")
    return folder


READ_ONLY = 'mount --bind "$folder" "$folder" && mount -o remount,ro,bind "$folder"'
SMALL_DISK = 'mount -t tmpfs -o size=512k none "$folder"'


def toy_command(recipe: Path, root: Path, *more: str) -> list[str | Path]:
    program = [sys.executable, "-m", "tests.fakes.toy_stages"]
    return [*program, "run", recipe, "--run-dir", root, *more]


@pytest.mark.parametrize("root", ["", "run"], ids=["the folder itself", "a folder in it"])
def test_a_read_only_place_is_a_message(root: str, toy_recipe: Path, mount_point: Path) -> None:
    done = mounted(mount_point, READ_ONLY, toy_command(toy_recipe, mount_point / root))
    assert done.returncode == EXIT_FAILED
    assert "read-only" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_finished_run_in_a_read_only_place_is_finished(
    toy: CommandLine, toy_recipe: Path, mount_point: Path
) -> None:
    toy("run", toy_recipe, "--run-dir", mount_point)
    done = mounted(mount_point, READ_ONLY, toy_command(toy_recipe, mount_point))
    assert (done.returncode, done.stderr) == (EXIT_DONE, "")


def test_a_full_disk_is_a_message_and_space_is_all_it_takes(
    toy_recipe: Path, mount_point: Path
) -> None:
    run = toy_command(toy_recipe, mount_point / "run")
    script = (
        '"$@" --set a.kib=4096; first=$?; mount -o remount,size=8m "$folder"; '
        '"$@" --set a.kib=1 >/dev/null 2>&1; echo "$first $?"'
    )
    command: list[str | Path] = ["sh", "-c", f'folder="$1"; shift; {script}', "sh", mount_point]
    done = mounted(mount_point, SMALL_DISK, [*command, *run])
    assert done.stdout == f"{EXIT_FAILED} {EXIT_DONE}\n"
    assert "disk is full" in done.stderr
    assert "Traceback" not in done.stderr
