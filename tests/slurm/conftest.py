"""A Slurm cluster for the tests of this folder."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests.launching import kill_tree, start
from tests.slurm.cluster import Cluster, missing
from tests.slurm.faults import PATIENT, Tell
from tests.slurm.runs import RANKS, RECIPE, STAGE_NAMES


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the daemons wrote beside a failure."""
    report = yield
    if report.failed:
        report.sections += [(f"Slurm in {it.base}", it.logs()) for it in Cluster.running]
    return report


@pytest.fixture(scope="session")
def slurm_installed() -> None:
    """For tests that start a cluster of their own: a failure in CI, a skip elsewhere."""
    if reason := missing():
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def cluster(slurm_installed: None) -> Iterator[Cluster]:
    """Three nodes for all tests; each finds it without jobs."""
    with Cluster.started() as started:
        yield started


@pytest.fixture(scope="module")
def patient(slurm_installed: None) -> Iterator[Cluster]:
    """Three nodes with time to save, for the tests of a file; each finds it whole and without jobs."""
    with Cluster.started(PATIENT) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """End what a test has left in a common cluster, and give lost nodes back."""
    common = {"cluster", "patient"} & set(request.fixturenames)
    clusters: list[Cluster] = [request.getfixturevalue(name) for name in common]
    yield
    for used in clusters:
        used.cancel_all()
        for name in used.troubled_nodes():
            used.start_node(used.nodes.index(name))


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Path]]:
    """The recipe of runs.py, undisturbed, on this host alone; to call it is to wait for its end.

    pytest's workers share one: who makes the folder starts it.
    """
    common = tmp_path_factory.getbasetemp()
    folder = (common.parent if os.environ.get("PYTEST_XDIST_WORKER") else common) / "reference"
    process = None
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
        command = ("run", *RECIPE, "--run-dir", folder / "run", "--processes", str(RANKS))
        process = start(*command)

    def ended() -> Path:
        if process is not None and process.returncode is None:
            output, _ = process.communicate(timeout=600)
            assert process.returncode == 0, output
        deadline = time.monotonic() + 600
        while not (folder / "run" / STAGE_NAMES[-1]).is_dir():
            assert time.monotonic() < deadline, f"{folder / 'run'}: its worker did not finish it"
            time.sleep(0.1)
        return folder / "run"

    yield ended
    if process is not None and process.returncode is None:
        kill_tree(process)


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Tell:
    """Print what a fault cost."""

    def show(fault: str, seconds: float, lost: int | None = None) -> None:
        updates = "" if lost is None else f", {lost} updates lost"
        with capsys.disabled():
            print(f"\n  {fault}: back after {seconds:.1f} s{updates}", flush=True)

    return show
