"""Every user's mistake ends in one clear message, the right exit code, and nothing lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.launching import CHECKOUT, TINY, environment, start, sumpipe, wait_for
from tests.namespaces import require_unshare

pytestmark = pytest.mark.e2e

ROW = {"document": "The council met on Monday. It voted for the bridge.", "summary": "Bridge wins."}
SMALL = ("--set", "fetch.model.vocab_size=300", "--set", "fetch.model.d_model=16")


def dataset(folder: Path, **texts: str) -> Path:
    """A folder of train, valid and test files, some with the text given."""
    folder.mkdir()
    row = json.dumps(ROW) + "\n"
    for split in ("train", "valid", "test"):
        (folder / f"{split}.jsonl").write_text(texts.get(split, row * 3), encoding="utf-8")
    return folder


def fetch(run_dir: Path, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    source = ("--set", f"fetch.dataset.path={folder}")
    return sumpipe("run", "small", "--run-dir", run_dir, "--to", "clean", *source, *SMALL, *more)


def assert_clear(done: subprocess.CompletedProcess[str], code: int, *told: str) -> None:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    for text in told:
        assert text in done.stderr, done.stderr


def test_unknown_keys_and_impossible_values_are_all_named(tmp_path: Path) -> None:
    done = sumpipe(
        *("run", "demo", "--run-dir", tmp_path / "run"),
        *("--set", "finetune.optimizer.lrate=1", "--set", "finetune.updates=-3"),
        *("--set", "generate.num_beams=many", "--set", "fetch.model.heads=7"),
    )
    assert_clear(
        done,
        2,
        "optimizer.lrate: unknown key; did you mean finetune.optimizer.lr",
        "finetune.updates",
        "-3",
    )
    assert "generate.num_beams" in done.stderr
    assert "d_model 128 is not a multiple of heads 7" in done.stderr
    assert not (tmp_path / "run").exists()


def test_missing_column_names_those_present(tmp_path: Path) -> None:
    text = json.dumps({"article": "a", "highlights": "b"}) + "\n"
    done = fetch(tmp_path / "run", dataset(tmp_path / "data", train=text))
    assert_clear(done, 1, "train.jsonl:1", "'document'", "article, highlights", "columns.document")


def test_mapped_columns_are_read(tmp_path: Path) -> None:
    text = "".join(
        json.dumps({"article": ROW["document"], "highlights": ROW["summary"], "key": n}) + "\n"
        for n in range(4)
    )
    folder = dataset(tmp_path / "data", train=text, valid=text, test=text)
    columns = "fetch.dataset.columns={document: article, summary: highlights, id: key}"
    done = fetch(tmp_path / "run", folder, "--set", columns)
    assert done.returncode == 0, done.stderr


def test_malformed_line_is_named_and_the_rest_survives(tmp_path: Path) -> None:
    good = json.dumps(ROW) + "\n"
    folder = dataset(tmp_path / "data", valid=good * 2 + '{"document": "cut off\n' + good)
    done = fetch(tmp_path / "run", folder)
    assert_clear(done, 1, "valid.jsonl:3", "not valid JSON")
    assert (tmp_path / "run" / "fetch.partial" / "raw" / "train").is_dir()
    (folder / "valid.jsonl").write_text(good * 3, encoding="utf-8")
    mended = fetch(tmp_path / "run", folder)
    assert_clear(mended, 3, "valid.jsonl", "--restart-from fetch")  # other data is other work
    redone = fetch(tmp_path / "run", folder, "--restart-from", "fetch")
    assert redone.returncode == 0, redone.stderr


def test_bad_rows_are_recorded_to_the_row_if_asked_for(tmp_path: Path) -> None:
    good, bad = json.dumps(ROW) + "\n", '{"document": "cut off\n'
    folder = dataset(tmp_path / "data", train=good + bad + json.dumps({**ROW, "summary": 5}) + "\n")
    done = fetch(tmp_path / "run", folder, "--set", "fetch.dataset.on_bad_row=record")
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "run" / "fetch" / "manifest.json").read_text("utf-8"))
    counted = {
        split: manifest["metrics"][f"rows_unreadable_{split}"] for split in ("train", "test")
    }
    assert (manifest["metrics"]["rows_train"], counted) == (3, {"train": 2, "test": 0})
    ledger = pq.read_table(tmp_path / "run" / "clean" / "ledger" / "train").to_pylist()
    assert [row["origin"] for row in ledger] == [f"train.jsonl:{line}" for line in (1, 2, 3)]
    assert ledger[0]["outcome"] not in {row["outcome"] for row in ledger[1:]}


def test_an_unknown_set_names_near_ones(tmp_path: Path) -> None:
    done = sumpipe(
        *("run", "demo", "--run-dir", tmp_path / "run"),
        *("--set", "fetch.dataset={source: catalogue, name: cnndailymail}"),
    )
    assert_clear(done, 2, "'cnndailymail' is not in the catalogue; did you mean cnn_dailymail?")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_empty_split_is_refused(text: str, tmp_path: Path) -> None:
    done = fetch(tmp_path / "run", dataset(tmp_path / "data", test=text))
    assert_clear(done, 1, "test split is empty" if text else "test.jsonl: is empty")


def test_missing_dataset_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    done = fetch(tmp_path / "run", tmp_path / "nowhere")
    assert_clear(done, 1, "nowhere", "not a folder")
    assert not (tmp_path / "run").exists()


def test_a_folder_with_something_else_is_no_run_dir(tmp_path: Path) -> None:
    thesis = tmp_path / "mine" / "report" / "thesis.tex"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("years of work", encoding="utf-8")
    done = fetch(tmp_path / "mine", dataset(tmp_path / "data"), "--restart-from", "fetch")
    assert_clear(done, 2, "no run directory", "report", "--run-dir")
    (tmp_path / "mine" / "recipe.yaml").write_text("name: small", encoding="utf-8")
    done = fetch(tmp_path / "mine", tmp_path / "data", "--restart-from", "fetch")
    assert_clear(done, 1, str(thesis.parent), "not deleted")
    assert thesis.read_text(encoding="utf-8") == "years of work"


def test_a_finished_fetch_outlives_its_source(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "data")
    assert fetch(tmp_path / "run", folder).returncode == 0
    folder.rename(tmp_path / "elsewhere")
    planned = sumpipe("plan", "small", "--run-dir", tmp_path / "run", *SMALL,
                      "--set", f"fetch.dataset.path={folder}")  # fmt: skip
    assert planned.returncode == 0, planned.stderr
    assert "not compared with its source, which is gone" in planned.stdout
    done = fetch(tmp_path / "run", folder)
    assert done.returncode == 0
    assert "fetch: done; not compared with its source, which is gone" in done.stderr
    done = fetch(tmp_path / "run", folder, "--set", "fetch.dataset.on_bad_row=record")
    assert_clear(done, 3, "fetch.dataset.on_bad_row fail -> record", "its source is gone")


def test_more_processes_than_lanes(tmp_path: Path) -> None:
    done = sumpipe("run", TINY, "--run-dir", tmp_path / "run", "--processes", 3)
    assert_clear(done, 2, "finetune.batch.lanes", "use 2 or fewer")
    assert not (tmp_path / "run").exists()  # known before any work


def test_a_run_dir_in_use_names_its_holder(tmp_path: Path) -> None:
    process = start("run", "demo", "--run-dir", tmp_path / "run", "--to", "fetch")
    wait_for(process, lambda: (tmp_path / "run" / ".holder.json").is_file())
    process.send_signal(signal.SIGSTOP)
    try:
        done = sumpipe("run", "demo", "--run-dir", tmp_path / "run")
        assert_clear(done, 1, "in use", f"pid {process.pid}", os.uname().nodename)
    finally:
        process.send_signal(signal.SIGCONT)
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output


@pytest.fixture(scope="module")
def half_trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run stopped in training, with two checkpoints."""
    run_dir = tmp_path_factory.mktemp("half") / "run"
    process = start("run", TINY, "--run-dir", run_dir, "--to", "finetune")
    second = run_dir / "finetune.partial" / "checkpoints" / "update_00000010"
    wait_for(process, second.is_dir)
    process.terminate()
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 75, output
    return run_dir


def test_a_truncated_checkpoint_is_passed_over(half_trained: Path, tmp_path: Path) -> None:
    run_dir = Path(shutil.copytree(half_trained, tmp_path / "run"))
    newest = sorted((run_dir / "finetune.partial" / "checkpoints").glob("update_????????"))[-1]
    victim = max(newest.rglob("*.pt"), key=lambda path: path.stat().st_size)
    os.truncate(victim, victim.stat().st_size // 2)
    done = sumpipe("run", TINY, "--run-dir", run_dir, "--to", "finetune")
    assert done.returncode == 0, done.stderr
    assert f"checkpoint passed over: {victim}" in done.stderr
    assert "resumes after update" in done.stderr


def test_no_whole_checkpoint_left_is_an_error(half_trained: Path, tmp_path: Path) -> None:
    run_dir = Path(shutil.copytree(half_trained, tmp_path / "run"))
    for victim in (run_dir / "finetune.partial" / "checkpoints").rglob("mp_rank_00*.pt"):
        os.truncate(victim, 10)
    done = sumpipe("run", TINY, "--run-dir", run_dir, "--to", "finetune")
    assert_clear(done, 1, "no usable checkpoint", "mp_rank_00", "--restart-from")


def test_a_checkpoint_of_another_launch_says_how_to_continue(
    half_trained: Path, tmp_path: Path
) -> None:
    run_dir = Path(shutil.copytree(half_trained, tmp_path / "run"))
    done = sumpipe("run", TINY, "--run-dir", run_dir, "--to", "finetune", "--ds-config", "zero3")
    assert_clear(done, 1, "written at ZeRO-2; ZeRO-3 cannot", "--ds-config zero1 or zero2")


def private_mounts(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script in a mount namespace of its own; skip where that is refused."""
    require_unshare("--mount")
    return subprocess.run(
        ["unshare", "-m", "bash", "-euc", script, "script", *arguments],
        capture_output=True,
        text=True,
        env=environment({"SUMPIPE": f"{sys.executable} -m stages", "RECIPE": str(TINY)}),
        cwd=CHECKOUT,
        timeout=280,
        check=False,
    )


def test_a_read_only_run_dir(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    done = private_mounts(
        'mount --bind "$1" "$1"; mount -o remount,bind,ro "$1"; $SUMPIPE run demo --run-dir "$1"',
        str(tmp_path / "run"),
    )
    assert_clear(done, 1, "read-only", "--run-dir")


FULL_DISK = """
mount -t tmpfs -o size=64m tmpfs "$2"
cp -a "$1" "$2/run"
# leave a little room, too little for what comes
free=$(df --output=avail -B1024 "$2" | tail -1)
head -c $(( (free - $4) * 1024 )) /dev/zero > "$2/filler"
code=0; $SUMPIPE run "$RECIPE" --run-dir "$2/run" --to "$3" 2> "$2.first" || code=$?
echo "first $code"
rm "$2/filler"
$SUMPIPE run "$RECIPE" --run-dir "$2/run" --to "$3"
cat "$2/run/$3/manifest.json" > "$2.manifest"
"""


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "room_kib"), [("finetune", 3000), ("generate", 28)])
def test_a_full_disk_loses_nothing(
    stage: str, room_kib: int, half_trained: Path, tmp_path: Path
) -> None:
    source = Path(shutil.copytree(half_trained, tmp_path / "source"))
    if stage == "generate":
        before = sumpipe("run", TINY, "--run-dir", source, "--to", "export")
        assert before.returncode == 0, before.stderr
    disk = tmp_path / "disk"
    disk.mkdir()
    done = private_mounts(FULL_DISK, str(source), str(disk), stage, str(room_kib))
    assert done.returncode == 0, done.stderr + done.stdout
    assert "first 1" in done.stdout
    told = Path(f"{disk}.first").read_text(encoding="utf-8")
    assert "disk is full" in told or "No space left" in told or "are free" in told, told
    assert "Traceback" not in told
    assert json.loads(Path(f"{disk}.manifest").read_text(encoding="utf-8"))["stage"] == stage
