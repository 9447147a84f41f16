"""Tasks that meet without torch, and the file system they try out: in threads, with what can go wrong."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest

from pipeline.config import JSON
from pipeline.distributed.world import World, free_port
from pipeline.doctor import shared_files
from pipeline.doctor.clocks import judge_clocks
from pipeline.doctor.finding import Finding, Level
from pipeline.doctor.meeting import Meeting, meet
from pipeline.errors import LaunchError

T = TypeVar("T")
SECONDS = 20.0


def worlds(size: int, address: str = "127.0.0.1") -> list[World]:
    port = free_port()
    return [World(rank, size, rank, address, port) for rank in range(size)]


def together(tasks: list[World], action: Callable[[World, Meeting], T]) -> list[T]:
    """Let each task meet the others and act."""

    def one(world: World) -> T:
        with meet(world, world.master_port, SECONDS) as meeting:
            return action(world, meeting)

    with ThreadPoolExecutor(len(tasks)) as pool:
        return list(pool.map(one, tasks))


@contextlib.contextmanager
def in_background(action: Callable[[], T]) -> Iterator[Future[T]]:
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(action)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_all_learn_what_all_say(size: int) -> None:
    def twice(world: World, meeting: Meeting) -> list[object]:
        first = meeting.gather("a", {"rank": world.rank}, SECONDS)
        return [first, meeting.gather("b", {"double": 2 * world.rank}, SECONDS), meeting.lost]

    ranks = [{"rank": rank} for rank in range(size)]
    doubles = [{"double": 2 * rank} for rank in range(size)]
    assert together(worlds(size), twice) == [[ranks, doubles, {}]] * size


def test_what_is_collected_goes_to_the_first_alone() -> None:
    def once(world: World, meeting: Meeting) -> list[JSON | None]:
        return meeting.collect("a", {"rank": world.rank}, SECONDS)

    told = [{"rank": rank} for rank in range(3)]
    assert together(worlds(3), once) == [told, [{}] * 3, [{}] * 3]


@pytest.mark.timeout(60)
def test_many_tasks_read_their_clocks_at_the_same_moment() -> None:
    """However much they have to say of themselves before."""
    size, facts = 512, {"findings": ["x" * 20_000]}

    def read(_: World, meeting: Meeting) -> float:
        meeting.collect("the start", facts, SECONDS)
        meeting.collect("the clocks", {}, SECONDS)
        return time.time()

    times = together(worlds(size), read)
    assert judge_clocks(dict(enumerate(times))).level is Level.OK, max(times) - min(times)


def test_the_port_can_be_listened_at_while_they_talk() -> None:
    """As torch does for the all-reduce, at the very address that was tried."""

    def listen(world: World, meeting: Meeting) -> bool:
        if world.is_first:
            with socket.create_server(("127.0.0.1", world.master_port)):
                meeting.gather("a", {}, SECONDS)
        else:
            meeting.gather("a", {}, SECONDS)
        return True

    assert together(worlds(2), listen) == [True, True]


def test_who_does_not_come_is_named_and_not_waited_for_for_ever() -> None:
    first, second, _ = worlds(3)

    def other() -> object:
        with meet(second, second.master_port, SECONDS) as meeting:
            return meeting.gather("a", {"here": 1}, SECONDS)

    with in_background(other) as answer:
        started = time.monotonic()
        with meet(first, first.master_port, 1.0) as meeting:
            assert meeting.lost == {2: ("the start", 1.0)}
            assert meeting.gather("a", {"here": 0}, SECONDS) == [{"here": 0}, {"here": 1}, None]
        assert time.monotonic() - started < SECONDS / 2
        assert answer.result(SECONDS) == [{"here": 0}, {"here": 1}, None]


def test_who_falls_silent_is_named_and_told() -> None:
    first, second = worlds(2)
    is_over = threading.Event()

    def silent() -> str:
        with meet(second, second.master_port, SECONDS) as meeting:
            meeting.gather("a", {}, SECONDS)
            is_over.wait(SECONDS)
            with pytest.raises(
                LaunchError, match=r"rank 1 on .*rank 0 ended, or went on without it"
            ):
                meeting.gather("b", {}, 1.0)
        return "told"

    with in_background(silent) as answer:
        with meet(first, first.master_port, SECONDS) as meeting:
            meeting.gather("a", {}, SECONDS)
            assert meeting.gather("b", {"x": 1}, 0.3) == [{"x": 1}, None]
            assert meeting.lost == {1: ("b", 0.3)}
            assert meeting.gather("c", {"x": 2}, SECONDS) == [{"x": 2}, None]
            is_over.set()
        assert answer.result(SECONDS) == "told"


def test_strangers_at_the_port_are_passed_over() -> None:
    first, second = worlds(2)
    with ThreadPoolExecutor(1) as pool:

        def other() -> object:
            with contextlib.closing(_connected(first.master_port)) as stranger:
                stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
            with contextlib.closing(_connected(first.master_port)) as stranger:
                stranger.sendall(b'{"rank": 7}\n')
            with meet(second, second.master_port, SECONDS) as meeting:
                return meeting.gather("a", {}, SECONDS)

        answer = pool.submit(other)
        with meet(first, first.master_port, SECONDS) as meeting:
            assert meeting.gather("a", {}, SECONDS) == [{}, {}]
        assert answer.result(SECONDS) == [{}, {}]


def _connected(port: int) -> socket.socket:
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port))
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_port_in_use_is_named_with_the_way_out() -> None:
    first, _ = worlds(2)
    with (
        socket.create_server(("", first.master_port)),
        pytest.raises(
            LaunchError, match=rf"port {first.master_port} \(.*in use\); set MASTER_PORT"
        ),
        meet(first, first.master_port, SECONDS),
    ):
        pass


@pytest.mark.parametrize("rank", [0, 1])
def test_an_address_that_nobody_resolves_is_named(rank: int) -> None:
    world = worlds(2, "no-such-host.invalid")[rank]
    with (
        pytest.raises(LaunchError, match=rf"rank {rank} on .*MASTER_ADDR no-such-host.invalid"),
        meet(world, world.master_port, 0.5),
    ):
        pass


def test_an_address_where_nobody_listens_is_named() -> None:
    world = worlds(2)[1]
    with (
        pytest.raises(LaunchError, match=r"cannot be reached \(.*refused\)"),
        meet(world, world.master_port, 0.5),
    ):
        pass


# --- the file system ---


def examined(run_dirs: list[Path]) -> list[Finding]:
    """Let one task for each folder examine it; returns what rank 0 finds."""
    found = together(
        worlds(len(run_dirs)),
        lambda world, meeting: shared_files.examine_files(run_dirs[world.rank], world, meeting),
    )
    assert not any(found[1:])
    return found[0]


@pytest.mark.parametrize("size", [1, 3])
def test_a_folder_that_all_see_is_fine_and_left_as_it_was(size: int, tmp_path: Path) -> None:
    run_dir = tmp_path / "new" / "run"
    (found,) = examined([run_dir] * size)
    assert found.level is not Level.FAILURE, found
    assert "O_EXCL and rename hold" in found.text
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_there_stays_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("name: mine\n", encoding="utf-8")
    examined([tmp_path, tmp_path])
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_files, "PATIENCE_SECONDS", 0.3)


@pytest.mark.usefixtures("impatient")
def test_folders_that_are_not_the_same_are_told(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b", "a")]
    (found,) = examined(folders)
    assert found.level is Level.FAILURE
    assert found.text.startswith("rank 1: ")
    assert str(tmp_path / "b") in found.text
    assert "is not there" in found.text
    assert "all nodes share" in found.fix


@pytest.mark.usefixtures("impatient")
def test_bytes_that_differ_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = shared_files._make

    def corrupt(folder: Path, parents: list[Path]) -> JSON:
        answer = made(folder, parents)
        (folder / "beacon").write_bytes(b"other")
        return answer

    monkeypatch.setattr(shared_files, "_make", corrupt)
    (found,) = examined([tmp_path, tmp_path])
    assert found.level is Level.FAILURE
    assert "rank 0, 1: " in found.text
    assert "has other bytes" in found.text


def test_creation_that_is_not_exclusive_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_files, "_creates", lambda path, rank: True)
    (found,) = examined([tmp_path, tmp_path])
    assert (found.level, "O_EXCL let 2 of 2" in found.text) == (Level.FAILURE, True)


@pytest.mark.usefixtures("impatient")
def test_a_replaced_file_that_stays_old_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_files, "_replace", lambda folder, rank: {})
    found = examined([tmp_path, tmp_path])
    assert {finding.level for finding in found} == {Level.FAILURE}
    assert all("has other bytes" in finding.text for finding in found)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    (found,) = examined([tmp_path / "file" / "run"] * 2)
    assert found.level is Level.FAILURE
    assert "Not a directory" in found.text
    assert "choose another --run-dir" in found.fix


def test_what_a_killed_doctor_left_is_swept(tmp_path: Path) -> None:
    import os

    old, new = tmp_path / ".doctor-old", tmp_path / ".doctor-new"
    for folder in (old, new):
        folder.mkdir()
    os.utime(old, (0, 0))
    examined([tmp_path])
    assert [path.name for path in tmp_path.iterdir()] == [".doctor-new"]


def test_two_doctors_may_sweep_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / ".doctor-gone"
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter([gone]))
    (found,) = examined([tmp_path])
    assert found.level is not Level.FAILURE, found


@pytest.mark.parametrize("failing", ["mkdir", "write"])
def test_folders_above_go_when_ours_cannot_be_made(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = Path.mkdir

    def full(path: Path, *arguments: int, **options: bool) -> None:
        if path.name.startswith(".doctor-") and path.parent.is_dir():
            raise OSError(28, "No space left on device", str(path))
        make(path, *arguments, **options)

    def write(path: Path, _: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    if failing == "mkdir":
        monkeypatch.setattr(Path, "mkdir", full)
    else:
        monkeypatch.setattr(shared_files, "write_atomic", write)
    (found,) = examined([tmp_path / "new" / "run"])
    assert found.level is Level.FAILURE
    assert "No space left" in found.text
    assert list(tmp_path.iterdir()) == []


def test_a_doctor_that_is_ended_leaves_nothing(tmp_path: Path) -> None:
    """As TERM ends it, wherever it is (see command.py)."""
    (world,) = worlds(1)
    for step in ("shared files: make", "shared files: read"):

        class Ended(Meeting):
            def gather(self, name: str, value: JSON, seconds: float) -> list[JSON | None]:
                if name == step:  # noqa: B023 - used in this round alone
                    raise SystemExit(143)
                return super().gather(name, value, seconds)

        with pytest.raises(SystemExit):
            shared_files.examine_files(tmp_path / "new", world, Ended(world, {}, 0))
        assert list(tmp_path.iterdir()) == []
