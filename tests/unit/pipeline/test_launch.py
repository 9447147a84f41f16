"""What is shown of a group that failed: the cause among what its ranks said, or their silence."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline import rank as one_rank
from pipeline.errors import DataError, LaunchError
from pipeline.launch import _failure, is_lost_peer, write_error
from pipeline.preemption import StopFlag
from pipeline.stage import Recipe


@pytest.mark.parametrize(
    "text",
    [
        "[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:2345",
        "[gloo/transport/tcp/pair.cc:547] Read error [127.0.0.1]:2345: Connection reset by peer",
        "[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 12000ms for recv operation",
        "Timed out after 13 seconds waiting for clients. 1/2 clients joined.",
        "wait timeout after 2000ms, keys: /a/0",
        "NCCL error in: NCCLUtils.hpp:268, remote process exited or there was a network error, NCCL version "
        "2.27.5\nncclRemoteError: A call failed possibly due to a network error or a remote process exiting "
        "prematurely.",
        "NCCL communicator was aborted on rank 1.",
        "[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7, OpType=ALLREDUCE)",
    ],
)
def test_the_words_of_a_rank_that_lost_another(text: str) -> None:
    assert is_lost_peer(RuntimeError(text))


@pytest.mark.parametrize(
    "text",
    [
        "NCCL error in: NCCLUtils.hpp:268, unhandled cuda error\nncclUnhandledCudaError: "
        "Call to CUDA function failed.",
        "NCCL error in: invalid usage\nncclInvalidUsage: Duplicate GPU detected : rank 0 and rank 1",
        "ProcessGroupNCCL is only supported with GPUs, no GPUs found!",
    ],
)
def test_an_error_of_nccl_with_a_cause_of_its_own_is_no_lost_peer(text: str) -> None:
    assert not is_lost_peer(RuntimeError(text))


LOST = RuntimeError("Connection closed by peer [127.0.0.1]:2345")
CLOSED = RuntimeError("Failed to recv, got 0 bytes. Connection was likely closed.")


@pytest.mark.parametrize(
    ("errors", "silent", "told"),
    [
        ([LOST, RuntimeError("boom"), DataError("row 3")], [], "rank 2: row 3"),
        ([LOST, RuntimeError("boom"), LOST], [], "rank 1: RuntimeError: boom"),
        ([CLOSED, RuntimeError("boom")], [2], "rank 1: RuntimeError: boom"),
        ([LOST, LOST], [], "rank 0: RuntimeError: Connection closed by peer"),
        ([LOST, LOST], [2], "without a word: rank 2, which means killed"),
        ([], [], "without a word: every rank, which means killed"),
    ],
)
def test_the_cause_is_shown(
    errors: list[Exception], silent: list[int], told: str, tmp_path: Path
) -> None:
    for rank, error in enumerate(errors):
        write_error(tmp_path, rank, error)
    failure = _failure("finetune", tmp_path, silent, code=1, seconds=7.0)
    assert isinstance(failure, LaunchError)
    assert told in str(failure)


@pytest.mark.parametrize(
    ("given", "seen"),
    [(["--gpus", "5,MIG-7f"], "5,MIG-7f"), (["--gpus", ""], ""), ([], "0,1")],
    ids=["some", "none", "the launcher's"],
)
def test_a_rank_sees_the_gpus_it_is_given_and_not_the_launchers(
    given: list[str], seen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = {"CUDA_VISIBLE_DEVICES": "0,1"}
    monkeypatch.setattr(os, "environ", environ)
    words = ["finetune", "--run-dir", str(tmp_path / "nowhere"), *given]
    assert one_rank.main([], Recipe, words, StopFlag()) == 2
    assert environ["CUDA_VISIBLE_DEVICES"] == seen
