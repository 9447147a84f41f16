"""Archives that nltk's downloader leaves: what to say of one that came only in part."""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import nltk.data

from pipeline.errors import DataError


@contextlib.contextmanager
def whole_archive(name: str, field: str) -> Iterator[None]:
    """Read data of nltk within this, such as `corpora/wordnet`.

    Raises:
        DataError: If its archive is damaged; names the file and the recipe's field that wants it.
    """
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        found = [
            path for folder in nltk.data.path if (path := Path(folder, f"{name}.zip")).is_file()
        ]
        broken = next((path for path in found if not zipfile.is_zipfile(path)), found[0])
        raise DataError(
            f"{field}: {broken} is not a whole .zip file: delete it and download it again "
            f"(`python -m nltk.downloader {Path(name).name}` where there is a network)"
        ) from error
