"""Namespaces of Linux for tests that need a disk or a network of their own."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest


def require_unshare(space: str) -> None:
    """Skip the test where a namespace is refused; with CI=true, fail.

    Args:
        space: An option of unshare(1): `--mount` or `--net`.
    """
    unshare = shutil.which("unshare")
    is_allowed = unshare is not None and (
        subprocess.run([unshare, space, "true"], capture_output=True, check=False).returncode == 0
    )
    if is_allowed:
        return
    message = f"`unshare {space}` is refused here (needs unshare and CAP_SYS_ADMIN)"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)
