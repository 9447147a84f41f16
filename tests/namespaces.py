"""Namespaces of Linux for tests that need a disk or a network of their own."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest


def can_unshare(space: str) -> bool:
    """Tell whether this machine allows a namespace: an option of unshare(1), `--mount` or `--net`."""
    unshare = shutil.which("unshare")
    return unshare is not None and (
        subprocess.run([unshare, space, "true"], capture_output=True, check=False).returncode == 0
    )


def require_unshare(space: str) -> None:
    """Skip the test where a namespace is refused; with CI=true, fail."""
    if can_unshare(space):
        return
    message = f"`unshare {space}` is refused here (needs unshare and CAP_SYS_ADMIN)"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)
