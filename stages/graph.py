"""The stages of the pipeline: the table of contents of the project."""

from __future__ import annotations

from pipeline.stage import Launch, Stage
from stages.fetch.identity import identity as fetch_identity
from stages.finetune.config import check_launch
from stages.recipe import export_settings

STAGES = (
    Stage("fetch", 1, (), "stages.fetch.run:run", identity=fetch_identity),
    Stage("clean", 1, ("fetch",), "stages.clean.run:run"),
    Stage("encode", 1, ("fetch", "clean"), "stages.encode.run:run"),
    Stage(
        "finetune",
        2,
        ("fetch", "encode"),
        "stages.finetune.run:run",
        Launch.GROUP,
        seeded=True,
        check=check_launch,
        forecast="stages.finetune.forecast:forecast",
        probe="stages.finetune.probe:probe",
    ),
    Stage(
        "export",
        3,
        ("fetch", "encode", "finetune"),
        "stages.export.run:run",
        settings=export_settings,
    ),
    Stage(
        "generate",
        2,
        ("encode", "export"),
        "stages.generate.run:run",
        shards="stages.generate.run:shards",
    ),
    Stage("score", 2, ("fetch", "clean", "generate"), "stages.score.run:run", seeded=True),
    Stage(
        "report",
        1,
        ("fetch", "clean", "encode", "finetune", "export", "generate", "score"),
        "stages.report.run:run",
    ),
)
