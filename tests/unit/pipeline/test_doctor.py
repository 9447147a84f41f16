"""What doctor says of what was measured: the judges, without a machine."""

from __future__ import annotations

import math
import shutil
import sys
import tempfile
import threading
import time
from collections import namedtuple
from collections.abc import Iterable
from pathlib import Path

import pytest

from pipeline.config import JSON
from pipeline.distributed.world import World
from pipeline.doctor import group, software
from pipeline.doctor.binding import Task, judge_binding
from pipeline.doctor.clocks import FAIL_SECONDS, WARN_SECONDS, judge_clocks
from pipeline.doctor.finding import (
    Finding,
    Level,
    failure,
    guarded,
    merged,
    ok,
    ranks_text,
    told,
    within,
)
from pipeline.doctor.group import judge_group, try_out
from pipeline.doctor.limits import Limits, judge_limits, limits_here
from pipeline.doctor.room import (
    Mount,
    Room,
    judge_room,
    judge_temporary,
    mount_of,
    quota_left,
    room_at,
)
from pipeline.doctor.shared_files import Steps, judge_files
from pipeline.doctor.software import (
    Gpus,
    Required,
    Software,
    compiled_ops,
    installed,
    judge_ops,
    judge_sameness,
    judge_software,
    judge_torch,
    last_words,
    required,
)
from pipeline.errors import ConfigError
from pipeline.provenance import git_state

WANTED = Required(
    ">=3.11", dict.fromkeys(["torch", "deepspeed", "transformers", "datasets"], ">=2,<6")
)
FOUND = Software("3.11.7", dict.fromkeys(WANTED.packages, "5.1+cpu"))


def levels(findings: object) -> list[str]:
    return [str(finding.level) for finding in findings]  # type: ignore[attr-defined]


# --- findings ---


def test_a_line_says_level_check_text_and_fix() -> None:
    line = str(failure("room", "3 GB free", "free space"))
    assert line.split() == ["failure", "room", "3", "GB", "free", "->", "free", "space"]
    assert "->" not in str(ok("room", "3 GB free"))
    assert Finding.of(failure("a", "b", "c")._asdict()) == failure("a", "b", "c")


def test_what_all_say_is_said_once_and_others_are_named() -> None:
    same, odd = ok("torch", "2.13"), failure("nltk", "is missing", "get it")
    assert merged({0: [same], 1: [same, odd], 3: [same, odd]}) == [
        same,
        odd._replace(text="rank 1, 3: is missing"),
    ]


def test_findings_of_a_check_stay_together() -> None:
    first, second = ok("python", "3.11"), ok("torch", "2.13")
    other = ok("python", "3.12")
    found = merged({0: [first, second], 1: [other, second]})
    assert [finding.check for finding in found] == ["python", "python", "torch"]


@pytest.mark.parametrize(
    ("ranks", "text"),
    [
        ([3], "rank 3"),
        ([1, 0], "rank 0, 1"),
        ([0, 2, 3, 4, 7, 8], "rank 0, 2-4, 7, 8"),
        (range(512), "rank 0-511"),
    ],
)
def test_many_ranks_are_named_in_few_words(ranks: Iterable[int], text: str) -> None:
    assert ranks_text(ranks) == text


def test_a_check_that_hangs_is_cut() -> None:
    started = time.monotonic()
    (found,) = guarded("files", 0.1, lambda: [ok("files", str(threading.Event().wait(20)))])
    assert time.monotonic() - started < 5
    assert (found.level, found.check) == (Level.FAILURE, "files")
    assert "no answer" in found.text


def test_a_check_that_breaks_is_a_failure_of_that_check() -> None:
    def check() -> list[Finding]:
        raise ModuleNotFoundError("No module named 'torch'")

    (found,) = guarded("torch", 5, check)
    assert found.level is Level.FAILURE
    assert "No module named 'torch'" in found.text
    assert "pip install" in found.fix


def test_errors_for_users_keep_their_words() -> None:
    assert told(ConfigError("a is wrong; do b")) == ("a is wrong", "do b")
    text, fix = told(OSError(28, "No space left on device", "/x"))
    assert "No space left on device" in text
    assert "full" in fix
    assert within(5, lambda: 7) == 7


# --- software ---


def test_the_requirements_are_those_of_the_project() -> None:
    wanted = required()
    assert installed([]).commit == git_state()["commit"]
    assert wanted.python.startswith(">=3.")
    assert {"torch", "deepspeed", "transformers", "rouge-score"} <= wanted.packages.keys()
    found = list(judge_software(installed(list(wanted.packages)), wanted))
    assert levels(found) == ["ok", "ok"]


def test_versions_that_fit_are_named() -> None:
    python, packages = judge_software(FOUND, WANTED)
    assert (python.level, python.text) == (Level.OK, "3.11.7")
    assert packages.level is Level.OK
    assert "torch 5.1+cpu" in packages.text


@pytest.mark.parametrize(
    ("found", "check", "text"),
    [
        (FOUND._replace(python="3.10.9"), "python", "3.10.9; >=3.11"),
        (FOUND._replace(packages={**FOUND.packages, "torch": "1.13"}), "packages", "torch 1.13"),
        (
            FOUND._replace(packages={**FOUND.packages, "datasets": "6.0"}),
            "packages",
            "datasets 6.0",
        ),
        (
            FOUND._replace(packages={**FOUND.packages, "deepspeed": None}),
            "packages",
            "deepspeed is not",
        ),
    ],
    ids=["python", "old", "new", "missing"],
)
def test_a_version_that_does_not_fit_is_named(found: Software, check: str, text: str) -> None:
    (fault,) = [finding for finding in judge_software(found, WANTED) if finding.level != "ok"]
    assert (fault.level, fault.check) == (Level.FAILURE, check)
    assert text in fault.text
    assert fault.fix


def test_tasks_with_other_versions_are_named() -> None:
    other = FOUND._replace(packages={**FOUND.packages, "torch": "5.2"})
    assert list(judge_sameness({0: FOUND, 1: FOUND})) == []
    (found,) = judge_sameness({0: FOUND, 1: other, 2: FOUND})
    assert found.level is Level.FAILURE
    assert "torch differs: 5.1+cpu on rank 0, 2; 5.2 on rank 1" in found.text


def test_tasks_with_other_commits_are_named() -> None:
    mine, other = FOUND._replace(commit="a" * 40), FOUND._replace(commit="b" * 40)
    assert list(judge_sameness({0: mine, 1: mine, 2: FOUND})) == []  # git is not everywhere
    (found,) = judge_sameness({0: mine, 1: other, 2: mine})
    assert found.level is Level.FAILURE
    assert "commit differs: aaaaaaaaaaaa on rank 0, 2; bbbbbbbbbbbb on rank 1" in found.text


def trial(cuda: str | None = None, gpus: int = 0, **more: object) -> JSON:
    card = {"name": "H100", "uuid": "a", "bytes": 1}
    facts = {"version": "2.13", "cuda": cuda, "gpus": [card] * gpus, "gpu": "a" if gpus else None}
    return {"torch": facts, "deepspeed": {"error": ""}, "ended": "", **more}


@pytest.mark.parametrize(
    ("answers", "gpus", "level", "text"),
    [
        (trial(), Gpus(0, None), "ok", "the CPU is used"),
        (trial("13.0", 2), Gpus(2, "580.1"), "ok", "driver 580.1; 2 GPU(s) seen: H100"),
        (trial("13.0"), Gpus(0, None), "ok", "no GPU here"),
        (trial(), Gpus(2, "580.1"), "failure", "built for the CPU"),
        (
            trial("13.0"),
            Gpus(1, "470.2"),
            "failure",
            "driver 470.2, but torch 2.13 cannot use them",
        ),
    ],
    ids=["cpu", "gpu", "login node", "cpu build", "old driver"],
)
def test_torch_and_the_gpus_must_fit(answers: JSON, gpus: Gpus, level: str, text: str) -> None:
    torch, cuda = judge_torch(answers, gpus)
    assert torch.level is Level.OK
    assert (cuda.level, cuda.check) == (level, "cuda")
    assert text in cuda.text


def test_torch_that_cannot_be_imported_is_told() -> None:
    (found,) = judge_torch({"ended": "ImportError: libcudart.so"}, Gpus(0, None))
    assert (found.check, found.level) == ("torch", Level.FAILURE)
    assert "ImportError: libcudart.so" in found.text
    assert 'pip install "torch>=' in found.fix


def test_deepspeed_that_cannot_be_imported_is_told() -> None:
    broken = trial(deepspeed={"error": "ImportError: no hjson"})
    assert [f.text for f in judge_torch(broken, Gpus(0, None)) if f.check == "deepspeed"] == [
        "cannot be imported: ImportError: no hjson"
    ]
    slow = {"torch": trial()["torch"], "ended": "no end within 9 s"}
    assert "no end within 9 s" in list(judge_torch(slow, Gpus(0, None)))[-1].text


NVME: JSON = {
    "zero_optimization": {
        "stage": 3,
        "offload_param": {"device": "nvme"},
        "offload_optimizer": None,
    }
}


def test_only_nvme_compiles_an_op(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compiled_ops({"zero_optimization": {"stage": 2}}) == {}
    assert compiled_ops(NVME) == {"async_io": "offload_param.device nvme"}
    (fine,) = judge_ops("zero2", {"zero_optimization": {"stage": 2}}, "0.19.8")
    assert (fine.level, fine.text) == (Level.OK, "0.19.8; zero2 compiles no op")
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    assert [f.level for f in judge_ops("mine", NVME, "0.19.8")] == [Level.OK]
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(software, "_version", lambda name: None)
    (found,) = judge_ops("mine", NVME, "0.19.8")
    assert found.level is Level.FAILURE
    assert "a C++ compiler and ninja" in found.text


def test_a_profile_that_wants_cpu_adam_is_refused_before_deepspeed_does() -> None:
    offload: JSON = {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}
    (found,) = judge_ops("mine", offload, "0.19.8")
    assert found.level is Level.FAILURE
    assert "zero_force_ds_cpu_optimizer" in found.fix
    assert levels(judge_ops("mine", {**offload, "zero_force_ds_cpu_optimizer": False}, "1")) == [
        "ok"
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Traceback:\n  x\nImportError: a\n[W] noise after\n", "ImportError: a"),
        ("torch.distributed.DistNetworkError: no\n", "torch.distributed.DistNetworkError: no"),
        ("Bus error\n\n", "Bus error"),
        ("", "without a word"),
    ],
)
def test_last_words_are_the_error(text: str, words: str) -> None:
    assert last_words(text) == words


# --- binding ---


def task(rank: int, cpus: list[int], gpu: str | None = None, gpus: list[str] | None = None) -> Task:
    return Task(rank, "a", cpus, 1, gpu, gpus or ([gpu] if gpu else []))


def test_tasks_of_their_own_are_fine() -> None:
    tasks = [task(0, [0, 1], "x"), task(1, [2, 3], "y"), task(2, [0, 1])._replace(host="b")]
    first, second = judge_binding(tasks)
    assert (first.level, first.text) == (
        Level.OK,
        "a: rank 0, 1; 2 CPU(s) each, a GPU each of 2 seen",
    )
    assert (second.level, second.text) == (Level.OK, "b: rank 2; 2 CPU(s) each")


def test_two_tasks_on_one_gpu() -> None:
    (found,) = judge_binding([task(0, [0], "x"), task(1, [1], "y"), task(2, [2], "x")])
    assert (found.level, found.text) == (Level.FAILURE, "a: rank 0, 2 use the same GPU x")


def test_the_same_gpu_name_on_two_hosts_is_none() -> None:
    tasks = [task(0, [0], "x"), task(1, [0], "x")._replace(host="b")]
    assert levels(judge_binding(tasks)) == ["ok", "ok"]


def test_two_tasks_on_one_cpu() -> None:
    (found,) = judge_binding([task(0, [5]), task(1, [5]), task(2, [6])])
    assert (found.level, found.text) == (Level.FAILURE, "a: rank 0, 1 are all bound to CPU 5")
    assert "--cpus-per-task" in found.fix


def test_more_threads_than_cpus_is_slow_but_works() -> None:
    (found,) = judge_binding([task(rank, [0, 1]) for rank in range(3)])
    assert (found.level, found.text) == (
        Level.WARNING,
        "a: 3 thread(s) of 3 task(s) share 2 CPU(s)",
    )


def test_a_task_without_a_gpu_among_others() -> None:
    (found,) = judge_binding([task(0, [0], "x"), task(1, [1])])
    assert (found.level, found.text) == (Level.FAILURE, "a: rank 1 sees no GPU, others do")


def test_gpus_without_a_task() -> None:
    (found,) = judge_binding([task(0, [0], "x", ["x", "y", "z"])])
    assert (found.level, found.text) == (Level.WARNING, "a: 2 of 3 GPUs have no task")


# --- clocks, limits, room ---


@pytest.mark.parametrize(
    ("skew", "level"),
    [
        (WARN_SECONDS, "ok"),
        (WARN_SECONDS + 0.1, "warning"),
        (FAIL_SECONDS, "warning"),
        (FAIL_SECONDS + 1, "failure"),
    ],
)
def test_clocks_that_are_apart(skew: float, level: str) -> None:
    found = judge_clocks({0: 1000.0, 1: 1000.0 - skew, 2: 999.9})
    assert found.level == level
    if level != "ok":
        assert "rank 1 is" in found.text
        assert "behind rank 0" in found.text


FINE = Limits(1024, 65536, 2**30, has_infiniband=False, has_gpu=False)


@pytest.mark.parametrize(
    ("limits", "tasks", "text"),
    [
        (FINE, 1, "1024 open files"),
        (FINE._replace(open_files=-1), 1000, "any number of open files"),
        (FINE._replace(has_infiniband=True), 2, "1024 open files"),
        (FINE._replace(has_gpu=True, has_infiniband=True, locked_bytes=-1), 2, "1024 open files"),
    ],
)
def test_limits_that_do(limits: Limits, tasks: int, text: str) -> None:
    (found,) = judge_limits(limits, tasks, 2)
    assert (found.level, found.text) == (Level.OK, text)


@pytest.mark.parametrize(
    ("limits", "tasks", "text"),
    [
        (FINE._replace(open_files=256), 1, "256 open files are allowed"),
        (FINE, 128, "may need 1280"),
        (FINE._replace(has_gpu=True, shared_bytes=2**26), 2, "/dev/shm has 64 MiB"),
        (FINE._replace(has_gpu=True, has_infiniband=True), 2, "65536 bytes may be locked"),
    ],
)
def test_limits_that_are_too_low(limits: Limits, tasks: int, text: str) -> None:
    (found,) = judge_limits(limits, tasks, 2)
    assert found.level is Level.WARNING
    assert text in found.text


def test_the_limits_of_this_machine_can_be_read() -> None:
    assert limits_here(has_gpu=False).open_files != 0


@pytest.mark.parametrize(
    ("free", "quota", "needed", "level"),
    [
        (100, None, None, "ok"),
        (100, None, 50, "ok"),
        (100, None, 90, "warning"),
        (100, None, 101, "failure"),
        (1000, 100, 101, "failure"),
        (100, 1000, 101, "failure"),
        (1000, 500, 100, "ok"),
        (100, math.inf, 50, "ok"),
        (100, math.inf, 101, "failure"),
    ],
)
def test_room_against_the_forecast(
    free: int, quota: float | None, needed: int | None, level: str
) -> None:
    assert judge_room(Room(Path("/x"), free, quota), needed).level == level


def test_no_quota_is_not_a_quota_that_is_not_known() -> None:
    texts = [
        judge_room(Room(Path("/x"), 10**9, quota), None).text for quota in (None, math.inf, 2e9)
    ]
    assert texts == [
        "1 GB free, quota not known at /x",
        "1 GB free, no quota at /x",
        "1 GB free, 2 GB of the quota left at /x",
    ]


def test_temporary_files_that_cannot_be_written_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert judge_temporary().level is Level.OK
    monkeypatch.setattr(tempfile, "tempdir", "/no/such/disk")
    found = judge_temporary()
    assert (found.level, found.text) == (
        Level.FAILURE,
        "/no/such/disk: No such file or directory",
    )
    assert "TMPDIR" in found.fix


def test_room_is_measured_above_a_folder_to_be_made(tmp_path: Path) -> None:
    found = room_at(tmp_path / "not" / "yet")
    assert found.place == tmp_path
    assert found.free > 0


QUOTA = """Disk quotas for user someone (uid 1000):
     Filesystem  blocks   quota   limit   grace   files   quota   limit   grace
server:/export/home  900*  800    1000       0      10       0       0       0
      /dev/sdb1    5000       0       0       0      10       0       0       0
"""
LUSTRE = "     /lustre  4096       0   10240       -       3       0       0       -\n"
WRAPPED = """/lustre/scratch/project
                   4096*      0   10240       -       3       0       0       -
/lustre/scratch/other
                 [1024]       0       0       -       3       0       0       -
"""


@pytest.mark.parametrize(
    ("text", "names", "left"),
    [
        (QUOTA, ["server:/export/home", "/home"], 100 * 1024),
        (QUOTA, ["/dev/sdb1"], math.inf),
        (QUOTA, ["/dev/sdc1"], None),
        (QUOTA.replace("1000 ", "0 "), ["server:/export/home"], 0),
        (LUSTRE, ["/lustre"], 6144 * 1024),
        (WRAPPED, ["/lustre/scratch/project"], 6144 * 1024),
        (WRAPPED, ["/lustre/scratch/other"], math.inf),
        (WRAPPED, ["/lustre/scratch"], None),
        ("quota: no such file\n", ["/home"], None),
        ("", ["/home"], None),
    ],
    ids=[
        *("nfs", "no limit", "elsewhere", "over the soft limit", "lustre", "lustre, long name"),
        *("lustre, no limit", "lustre, elsewhere", "words", "silence"),
    ],
)
def test_what_is_left_of_a_quota(text: str, names: list[str], left: float | None) -> None:
    assert quota_left(text, names) == left


def test_the_mount_of_a_path_is_the_deepest_and_last() -> None:
    Entry = namedtuple("Entry", "device mountpoint fstype opts")
    table = [
        Entry("root", "/", "ext4", ""),
        Entry("old", "/home", "nfs", ""),
        Entry("new", "/home", "lustre", ""),
        Entry("no", "/home2", "nfs", ""),
    ]
    assert mount_of(Path("/home/me"), table) == Mount("new", "/home", "lustre")
    assert mount_of(Path("/home2"), table) == Mount("no", "/home2", "nfs")
    assert mount_of(Path("/var"), table) == Mount("root", "/", "ext4")
    assert mount_of(Path("/var"), []) is None


# --- the group and the shared files ---


def reduced(total: float, seconds: float = 0.004) -> JSON:
    sums = {"sum": total, "bytes": 16 * 2**20, "seconds": seconds, "seconds_small": 1e-4}
    return trial(group={"backend": "gloo", "size": 2}, all_reduce=sums)


def test_a_timed_sum_is_told_with_its_bandwidth() -> None:
    (found,) = judge_group({0: reduced(2), 1: reduced(2, 0.008)})
    assert found.level is Level.OK
    # Each task sends and receives 2 (n - 1) / n of the bytes: 16 MiB in the slower one's 8 ms.
    assert "16 MiB in 8 ms, 2.1 GB/s a task; 8 bytes in 0.1 ms" in found.text


def test_a_wrong_sum_is_a_failure() -> None:
    (found,) = judge_group({0: reduced(2), 1: reduced(1)})
    assert (found.level, found.text) == (Level.FAILURE, "rank 1 got 1 as the sum of 2 ones")


@pytest.mark.parametrize(
    ("answers", "text", "fix"),
    [
        ({0: trial(ended="x"), 1: {"ended": "no torch"}}, "rank 1 could not use torch: no torch",
         "said of torch"),
        ({0: trial(ended="x"), 1: {"torch": {}, "ended": "cut"}},
         "rank 1 did not finish to import DeepSpeed: cut", "said of deepspeed"),
        ({0: trial(ended="x"), 1: trial(ended="x")}, "rank 0, 1 did not join the group: x",
         "SOCKET_IFNAME"),
        ({0: reduced(2), 1: trial(group={}, ended="cut")}, "rank 1 did not finish the sum: cut",
         "SOCKET_IFNAME"),
    ],
)  # fmt: skip
def test_the_rank_that_came_least_far_is_named_with_advice_that_fits(
    answers: dict[int, JSON], text: str, fix: str
) -> None:
    (found,) = judge_group(answers)
    assert (found.level, found.text) == (Level.FAILURE, text)
    assert fix in found.fix


def test_a_trial_that_cannot_be_started_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    answers = try_out(World(), 1, with_group=False)
    assert answers == {"ended": "no process could be started (No such file or directory)"}


TALK = """
import os, sys, time
print(sys.argv[-1] + '{"torch": 1}', flush=True)
print("half a line", end="", flush=True)
print("\\n" + sys.argv[-1] + '{"torch": 1, "deepspeed": 2}', flush=True)
END
"""


@pytest.mark.parametrize(
    ("end", "told"),
    [
        ("", ""),
        ("raise ValueError('no')", "ValueError: no"),
        ("os.kill(os.getpid(), 9)", "half a line (killed by signal 9)"),
        ("time.sleep(60)", "no end within 2 s"),
        ("os.fork() or time.sleep(60)", "no end within 2 s"),
    ],
    ids=["well", "an error", "killed", "hangs", "leaves a child"],
)
def test_what_a_trial_said_is_kept_however_it_ends(
    end: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    talk = TALK.replace("END", end)
    program.write_text(f"#!{sys.executable}\n{talk}", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(group, "IMPORT_SECONDS", 2 if "60" in end else 60)
    found = try_out(World(), 0, with_group=False)
    assert found == {"torch": 1, "deepspeed": 2, "ended": told}


def steps(**changed: dict[int, JSON]) -> Steps:
    seen = {rank: {"seconds": 0.1} for rank in range(2)}
    halves = (range(0, 16, 2), range(1, 16, 2))
    contend = {
        rank: {"host": f"n{rank}", "won": [*halves[rank]], "bytes_per_second": 1e9}
        for rank in range(2)
    }
    done: dict[int, JSON] = {rank: {} for rank in range(2)}
    return Steps(seen, contend, seen, done, seen)._replace(**changed)


def test_files_that_are_shared_are_fine() -> None:
    (found,) = judge_files(steps(), 2, Path("/run"))
    assert found.level is Level.OK
    assert "O_EXCL and rename hold over 2 host(s)" in found.text


def test_the_first_step_that_fails_explains_the_others() -> None:
    said = steps(
        see={0: {"seconds": 0.0}, 1: {"error": "is not there", "fix": "share it"}},
        read={1: {"error": "gone", "fix": ""}, 0: {"seconds": 0.0}},
    )
    (found,) = judge_files(said, 2, Path("/run"))
    assert (found.level, found.text, found.fix) == (
        Level.FAILURE,
        "rank 1: is not there",
        "share it",
    )


@pytest.mark.parametrize("winners", [(), (0, 1)], ids=["none", "both"])
def test_exclusive_creation_must_have_one_winner(winners: tuple[int, ...]) -> None:
    contend = {
        rank: {"won": [*others, *([15] if rank in winners else [])], "bytes_per_second": 1e9}
        for rank, others in enumerate((range(15), ()))
    }
    (found,) = judge_files(steps(contend=contend), 2, Path("/run"))
    assert found.level is Level.FAILURE
    assert f"O_EXCL let {len(winners)} of 2" in found.text


def test_files_that_are_seen_late_or_written_slowly() -> None:
    late = {0: {"seconds": 3.0}, 1: {"seconds": 0.0}}
    (found,) = judge_files(steps(reread=late), 2, Path("/run"))
    assert (found.level, "seen within 3.00 s" in found.text) == (Level.WARNING, True)
    for speed, level in ((9e6, Level.WARNING), (11e6, Level.OK)):  # two of them write at once
        contend = {r: {**said, "bytes_per_second": speed} for r, said in steps().contend.items()}
        (found,) = judge_files(steps(contend=contend), 2, Path("/run"))
        assert (found.level, f"{speed / 1e6:g} MB/s" in found.text) == (level, True)
