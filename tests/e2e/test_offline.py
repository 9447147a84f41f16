"""Without a network all stages run from local files, and a fetch from the Hub says what to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stages.fetch.demo_corpus import demo_rows
from tests.launching import CHECKOUT, TINY, environment
from tests.namespaces import can_unshare

pytestmark = pytest.mark.e2e

NO_ROUTE = CHECKOUT / "tests" / "fakes" / "no_route"
REACHES = "import socket; socket.create_connection(('192.0.2.1', 80), 1)"
"""An address of documentation: with a route it does not answer, without one it is unreachable."""


def without_route(
    *arguments: str | Path, in_namespace: bool | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program in a network namespace with a loopback and no route.

    Where that is refused it is a plain process whose Python connects to nothing outside, which is said.
    """
    if in_namespace is None and not (in_namespace := can_unshare("--net")):
        print("network namespaces are refused here: connections are refused within Python")
    script = 'ip link set lo up 2>/dev/null || ifconfig lo up; exec "$@"'
    space = ["unshare", "--net", "bash", "-uc", script, "bash"] if in_namespace else []
    paths = os.pathsep.join([str(NO_ROUTE), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [*space, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment({} if in_namespace else {"PYTHONPATH": paths}),
        cwd=CHECKOUT,
        timeout=240,
        check=False,
    )


def offline(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return without_route(sys.executable, "-m", "stages", *arguments)


@pytest.mark.parametrize("in_namespace", [None, False])
def test_there_is_no_route(in_namespace: bool | None) -> None:
    done = without_route(sys.executable, "-c", REACHES, in_namespace=in_namespace)
    assert "Network is unreachable" in done.stderr, done.stderr


def test_a_whole_run_from_files_needs_no_network(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for split, count in (("train", 120), ("valid", 8), ("test", 8)):
        rows = "".join(json.dumps(row) + "\n" for row in demo_rows(split, count, 1))
        (folder / f"{split}.jsonl").write_text(rows, encoding="utf-8")
    dataset = f"fetch.dataset={{source: local, path: {json.dumps(str(folder))}}}"
    recipe = (TINY, "--set", dataset, "--set", "finetune.updates=6")
    done = offline("run", *recipe, "--run-dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "Report:" in done.stdout
    assert (tmp_path / "run" / "score" / "rouge.json").is_file()


def test_a_fetch_from_the_hub_says_how_to_do_without(tmp_path: Path) -> None:
    dataset = "fetch.dataset={source: catalogue, name: gigaword}"
    done = offline("run", TINY, "--set", dataset, "--run-dir", tmp_path / "run", "--to", "fetch")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "try 1 of 4 failed" in done.stderr and "try 3 of 4 failed" in done.stderr
    for told in (
        "Without the Hub:",
        "Google Drive",
        "--set fetch.dataset.path=DIR",
        "--only fetch",
    ):
        assert told in done.stderr, done.stderr
