"""A Slurm cluster for the tests of this folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests.launching import kill_tree, start
from tests.slurm.cluster import Cluster, missing
from tests.slurm.runs import RANKS, RECIPE


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


@pytest.fixture(autouse=True)
def no_job_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """End what a test has left in the common cluster."""
    used = request.getfixturevalue("cluster") if "cluster" in request.fixturenames else None
    yield
    if used is not None:
        used.cancel_all()


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Path]]:
    """The recipe of runs.py, undisturbed, on this host alone; to call it is to wait for its end."""
    run_dir = tmp_path_factory.mktemp("reference") / "run"
    process = start("run", *RECIPE, "--run-dir", run_dir, "--processes", str(RANKS))

    def ended() -> Path:
        if process.returncode is None:
            output, _ = process.communicate(timeout=300)
            assert process.returncode == 0, output
        return run_dir

    yield ended
    kill_tree(process)
