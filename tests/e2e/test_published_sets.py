"""Each set of the catalogue in its published layout, in small, from its files to token ids."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.schema import SPLITS, RawRow, read_shards
from tests.conftest import CommandLine
from tests.launching import TINY
from tests.unit.stages.fetch.published import (
    SIZES,
    WHOLE,
    WRITERS,
    reddit_tifu,
    reddit_tifu_parquet,
    texts,
)

pytestmark = pytest.mark.e2e

CUT = {"train": 53, "valid": 6, "test": 7}
"""80/10/10 of the 66 whole posts, to the nearest row."""


def write_pairs(name: str) -> Callable[[Path], object]:
    return lambda folder: WRITERS[name](folder, texts())


SETS: dict[str, tuple[Callable[[Path], object], str | None, dict[str, int]]] = {
    **{name: (write_pairs(name), None, SIZES) for name in WRITERS},
    "reddit_tifu_long": (reddit_tifu, "pegasus", CUT),
    "reddit_tifu_long:parquet": (reddit_tifu_parquet, "hub_order", CUT),
}


@pytest.mark.parametrize("name", SETS)
def test_every_row_of_a_published_layout_is_accounted_for(
    name: str, sumpipe: CommandLine, tmp_path: Path
) -> None:
    write, split_choice, counts = SETS[name]
    folder, run_dir = tmp_path / "files", tmp_path / "run"
    write(folder)
    dataset = {"source": "catalogue", "name": name.partition(":")[0], "path": str(folder)}
    dataset |= {"check_rows": False, "split": split_choice}
    setting = ("--set", f"fetch.dataset={json.dumps(dataset)}")
    done = sumpipe("run", TINY, "--run-dir", run_dir, *setting, "--to", "encode")
    assert done.code == 0, done.err
    for split in SPLITS:
        ids = [row.id for row in read_shards(run_dir / "fetch" / "raw" / split, RawRow)]
        assert len(ids) == counts[split]
        ledger = pq.read_table(run_dir / "clean" / "ledger" / split)
        assert ledger["id"].to_pylist() == ids
        assert set(ledger["outcome"].to_pylist()) == {"kept"}
        encoded = [
            id_
            for path in sorted((run_dir / "encode" / split).glob("*.arrow"))
            for id_ in pa.ipc.open_file(pa.memory_map(str(path))).read_all()["id"].to_pylist()
        ]
        assert encoded == ids
    left_out = run_dir / "fetch" / "left_out.parquet"
    absent = 100 - len(WHOLE) if name == "reddit_tifu_long" else 0
    assert (pq.read_metadata(left_out).num_rows if left_out.exists() else 0) == absent
