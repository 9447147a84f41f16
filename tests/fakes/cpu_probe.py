"""The probe of fine-tuning without its demand for a GPU: `python -m tests.fakes.cpu_probe RECIPE RUN_DIR`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pipeline.artifact import RunDir
from pipeline.distributed.profile import find_profile
from pipeline.distributed.world import limit_threads, quiet_libraries
from pipeline.errors import PipelineError
from pipeline.recipe import resolve
from pipeline.stage import Execution, ForecastContext
from stages.recipe import SummarizationRecipe


def main(recipe: str, run_dir: str) -> int:
    """Print the details of a probe on whatever device there is."""
    quiet_libraries()
    limit_threads(1)
    from stages.finetune.probe import tried
    from tests.storage_ledger import StorageLedger

    # With it a CPU has no fused attention, which the forecast counts on.
    resolved, _ = resolve(SummarizationRecipe, recipe, ["finetune.attention_dropout=0.0"])
    assert isinstance(resolved, SummarizationRecipe)
    place = RunDir(Path(run_dir))
    found = {name: place.artifact(name) for name in ("fetch", "encode")}
    context = ForecastContext(
        {name: artifact for name, artifact in found.items() if artifact is not None},
        resolved.model_dump(mode="json", by_alias=True),
        resolved.seed,
        Execution(1, 1, find_profile("zero2")),
    )
    try:
        with StorageLedger() as ledger:
            details = tried(resolved.finetune, context).details
        print(json.dumps({**details, "storage_bytes": ledger.peak}))
    except PipelineError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
