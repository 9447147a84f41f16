"""Save on a small disk until it is full, free it, resume: `python -m tests.distributed.full_disk ROOT`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.rank_server import RankServer

CASES = "tests.distributed.checkpoint_cases"


def main(root: Path) -> None:
    """Print what was told when the disk was full, and what was left."""
    case = {"root": root, "profile": "zero2"}
    filler = root.parent / "filler"
    with RankServer(CASES) as ranks:
        ranks.run(2, f"{CASES}:session", until=2, **case)
        before = sorted(path.name for path in root.iterdir())
        _fill(filler, room=10_000)
        refused = ranks.results(2, f"{CASES}:session", until=3, **case)
        left = sorted(path.name for path in root.iterdir())
        filler.unlink()
        again = ranks.run(2, f"{CASES}:session", until=4, **case)
    found = {
        "before": before,
        "told": [answer["error"].splitlines()[-1].split("errors.")[-1] for answer in refused],
        "left": left,
        "last_whole": int(before[-1].removeprefix("update_")),
        "start_afterwards": again[0]["start"],
    }
    print(json.dumps(found))


def _fill(path: Path, room: int) -> None:
    import shutil

    path.write_bytes(bytes(max(shutil.disk_usage(path.parent).free - room, 0)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
