"""The tasks of a launch exchange JSON through rank 0, without torch, so that the absent can be named.

They meet where training would: rank 0 listens at MASTER_ADDR:MASTER_PORT, which is a check in itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from pipeline.config import JSON
from pipeline.distributed.world import World
from pipeline.errors import LaunchError

Values = list[JSON | None]
"""By rank; None of those that are absent."""

_PAUSE_SECONDS = 0.1
_HELLO_SECONDS = 5.0
"""How long a stranger who connects and says nothing is listened to."""
_MARGIN_SECONDS = 30.0


class _Line:
    """A connection that carries one JSON value a line."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._file = connection.makefile("rb")

    def send(self, text: bytes) -> None:
        self._connection.settimeout(_MARGIN_SECONDS)
        self._connection.sendall(text)

    def receive(self, seconds: float) -> Any:
        self._connection.settimeout(max(seconds, 0.01))
        text = self._file.readline()
        if not text.endswith(b"\n"):
            raise ConnectionError("closed")
        return json.loads(text)

    def close(self) -> None:
        self._file.close()
        self._connection.close()


def _encoded(value: Any) -> bytes:
    return json.dumps(value).encode("ascii") + b"\n"


class Missed(NamedTuple):
    """Where a rank was waited for in vain."""

    step: str
    seconds: float


class Meeting:
    """The tasks that came; whoever does not answer in time is left out from then on."""

    def __init__(self, world: World, lines: dict[int, _Line], seconds: float) -> None:
        self._world = world
        self._lines = lines
        self.lost: dict[int, Missed] = {}
        """On rank 0: where each absent rank was missed."""
        if world.is_first:
            present = {0, *lines}
            absent = [rank for rank in range(world.size) if rank not in present]
            self.lost = dict.fromkeys(absent, Missed("the start", seconds))

    def gather(self, step: str, value: JSON, seconds: float) -> Values:
        """Return every rank's value, on every rank; None for those that are absent.

        All get the answer at the same moment, but for the time that a message takes.

        Args:
            step: What they do, to say where one was missed.
            value: This rank's.
            seconds: How long rank 0 waits for the others.

        Raises:
            LaunchError: On another rank, if rank 0 has left or went on without it.
        """
        return self._exchange(step, value, seconds, lambda values: values)

    def collect(self, step: str, value: JSON, seconds: float) -> Values:
        """Do as `gather`, but let only rank 0 have the values: the others learn who is there, as {}.

        What many tasks have to say would take rank 0 long to send to each of them, one after the other.
        """
        return self._exchange(
            step, value, seconds, lambda values: [None if v is None else {} for v in values]
        )

    def _exchange(
        self, step: str, value: JSON, seconds: float, shared: Callable[[Values], Values]
    ) -> Values:
        if not self._world.is_first:
            return self._ask(step, value, seconds)
        values: Values = [None] * self._world.size
        values[0] = value
        deadline = time.monotonic() + seconds
        for rank, line in list(self._lines.items()):
            try:
                values[rank] = line.receive(deadline - time.monotonic())
            except (OSError, ValueError):
                self._lose(rank, Missed(step, seconds))
        answer = _encoded(shared(values))
        for rank, line in list(self._lines.items()):
            try:
                line.send(answer)
            except OSError:
                self._lose(rank, Missed(step, seconds))
        return values

    def _lose(self, rank: int, missed: Missed) -> None:
        self.lost[rank] = missed
        self._lines.pop(rank).close()

    def _ask(self, step: str, value: JSON, seconds: float) -> Values:
        try:
            self._lines[0].send(_encoded(value))
            # Rank 0 may come late, by as long as it waits for others.
            answer: Values = self._lines[0].receive(2 * seconds + _MARGIN_SECONDS)
        except (OSError, ValueError) as error:
            raise LaunchError(
                f"{_who(self._world)}: rank 0 ended, or went on without it, at {step} ({error}); "
                "see what rank 0 says"
            ) from error
        return answer

    def close(self) -> None:
        """Leave."""
        for line in self._lines.values():
            line.close()


@contextlib.contextmanager
def meet(world: World, port: int, seconds: float) -> Iterator[Meeting]:
    """Bring the tasks together, for at most `seconds`; rank 0 goes on with those that came.

    Raises:
        LaunchError: If rank 0 cannot listen at the rendezvous, or another rank does not reach it.
    """
    if world.size == 1:
        lines: dict[int, _Line] = {}
    elif world.is_first:
        lines = _receive(world, port, seconds)
    else:
        lines = {0: _reach(world, port, seconds)}
    meeting = Meeting(world, lines, seconds)
    try:
        yield meeting
    finally:
        meeting.close()


def alone(world: World) -> Meeting:
    """Return rank 0's meeting to which nobody came."""
    return Meeting(world, {}, 0)


def _receive(world: World, port: int, seconds: float) -> dict[int, _Line]:
    """Wait for the others, and for a connection of our own to the address that they are given."""
    deadline = time.monotonic() + seconds
    lines: dict[int, _Line] = {}
    with _listening(world, port) as server, contextlib.ExitStack() as own:
        try:
            to_myself = own.enter_context(
                socket.create_connection((world.master_addr, port), _HELLO_SECONDS)
            )
        except OSError as error:
            raise LaunchError(_unreachable(world, port, error)) from error
        to_myself.sendall(b'{"rank": 0}\n')
        while len(lines) < world.size and (left := deadline - time.monotonic()) > 0:
            server.settimeout(left)
            try:
                line = _Line(server.accept()[0])
            except TimeoutError:
                break
            rank = _hello(line, min(left, _HELLO_SECONDS))
            if rank is not None and rank < world.size and rank not in lines:
                lines[rank] = line
            else:
                line.close()
    if 0 not in lines:
        for line in lines.values():
            line.close()
        raise LaunchError(_unreachable(world, port, "that address belongs to another host"))
    lines.pop(0).close()
    return lines


def _listening(world: World, port: int) -> socket.socket:
    is_dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if is_dual else socket.AF_INET
    try:
        return socket.create_server(
            ("", port), family=family, backlog=world.size + 8, dualstack_ipv6=is_dual
        )
    except OSError as error:
        raise LaunchError(
            f"{_who(world)}: cannot listen at port {port} ({os.strerror(error.errno or 0)}); set "
            "MASTER_PORT to one that is free there, or end what uses it"
        ) from error


def _hello(line: _Line, seconds: float) -> int | None:
    try:
        rank = line.receive(seconds)["rank"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return rank if type(rank) is int and rank >= 0 else None


def _reach(world: World, port: int, seconds: float) -> _Line:
    deadline = time.monotonic() + seconds
    while True:
        left = deadline - time.monotonic()
        try:
            line = _Line(socket.create_connection((world.master_addr, port), max(left, 0.01)))
            line.send(_encoded({"rank": world.rank}))
            return line
        except OSError as error:
            if left <= _PAUSE_SECONDS:
                raise LaunchError(_unreachable(world, port, error)) from error
        time.sleep(_PAUSE_SECONDS)


def _unreachable(world: World, port: int, why: object) -> str:
    return (
        f"{_who(world)}: MASTER_ADDR {world.master_addr} port {port} cannot be reached ({why}); set "
        "MASTER_ADDR to a name or an address of rank 0's host that every node resolves and no firewall hides"
    )


def _who(world: World) -> str:
    return f"rank {world.rank} on {socket.gethostname()}"
