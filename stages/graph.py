"""The stages of the pipeline: the table of contents of the project."""

from __future__ import annotations

from pipeline.stage import Launch, Stage
from stages.clean.config import identity as clean_identity
from stages.fetch.identity import identity as fetch_identity
from stages.finetune.config import check_launch
from stages.recipe import export_settings
from stages.score.config import identity as score_identity
from stages.score.needs import check_needs

STAGES = (
    Stage("fetch", 5, (), "stages.fetch.run:run", identity=fetch_identity),
    Stage(
        "clean",
        4,
        ("fetch",),
        "stages.clean.run:run",
        identity=clean_identity,
        cached=True,
        shards="stages.clean.run:shards",
    ),
    Stage(
        "encode",
        2,
        ("fetch", "clean"),
        "stages.encode.run:run",
        cached=True,
        shards="stages.encode.run:shards",
    ),
    Stage(
        "finetune",
        3,
        ("fetch", "encode"),
        "stages.finetune.run:run",
        Launch.GROUP,
        resource="gpu",
        seeded=True,
        check=check_launch,
        forecast="stages.finetune.forecast:forecast",
        probe="stages.finetune.probe:probe",
    ),
    Stage(
        "export",
        5,
        ("fetch", "encode", "finetune"),
        "stages.export.run:run",
        settings=export_settings,
    ),
    Stage(
        "generate",
        2,
        ("encode", "export"),
        "stages.generate.run:run",
        resource="gpu",
        shards="stages.generate.run:shards",
    ),
    Stage(
        "score",
        5,
        ("fetch", "clean", "generate"),
        "stages.score.run:run",
        seeded=True,
        identity=score_identity,
        check=check_needs,
    ),
    Stage(
        "report",
        4,
        ("fetch", "clean", "encode", "finetune", "export", "generate", "score"),
        "stages.report.run:run",
    ),
)
