"""With this folder on PYTHONPATH a Python process, and those that it starts, reach nothing but themselves."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

_HERE = ("127.", "::1", "localhost", "0.0.0.0")
_resolve = socket.getaddrinfo


def _refuse(family: int, address: Any) -> None:
    is_internet = family in (socket.AF_INET, socket.AF_INET6)
    if is_internet and not str(address[0]).startswith(_HERE):
        raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))


class _Socket(socket.socket):
    def connect(self, address: Any) -> None:
        _refuse(self.family, address)
        super().connect(address)

    def connect_ex(self, address: Any) -> int:
        _refuse(self.family, address)
        return super().connect_ex(address)


def _getaddrinfo(host: Any, *arguments: Any, **more: Any) -> Any:
    is_address = host is None or not any(letter.isalpha() for letter in str(host))
    if is_address or str(host).startswith((*_HERE, socket.gethostname())):
        return _resolve(host, *arguments, **more)
    raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


socket.socket = _Socket  # type: ignore[misc]
socket.getaddrinfo = _getaddrinfo
