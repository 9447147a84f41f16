"""`sumpipe score`: score two bare files, of any system."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, get_args

import typer

from pipeline.cli import AsJson
from pipeline.config import JSON
from pipeline.distributed.world import limit_threads, thread_count
from pipeline.errors import ConfigError, StorageError, storage_error
from pipeline.filter import as_filter
from pipeline.log import print_table
from stages.names import require_text
from stages.score.config import LeadConfig, ProfileName, Splitter
from stages.score.wording import several

PROFILE_NAMES = get_args(ProfileName)
_UNFINISHED = ".sumpipe-score-"

Predictions = Annotated[
    Path,
    typer.Argument(
        metavar="PREDICTIONS",
        help="JSONL with `prediction`, `summary` or `text` (and `id`), or one prediction a line; - is stdin.",
    ),
]
References = Annotated[
    Path,
    typer.Argument(
        metavar="REFERENCES",
        help="The same rows: JSONL with `reference`, `summary` or `text` (and `id`, `document`), or lines.",
    ),
]
Profiles = Annotated[
    list[str] | None,
    typer.Option(
        "--profile", help=f"How ROUGE is computed; repeatable: {', '.join(PROFILE_NAMES)}."
    ),
]
Sentences = Annotated[
    Splitter | None,
    typer.Option("--sentences", help="Splitter for ROUGE-Lsum; default the profile's, newline."),
]
WordNet = Annotated[
    Path | None,
    typer.Option("--wordnet", metavar="DIR", help="Folder of WordNet's exception lists (*.exc)."),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="DIR", help="New folder for rouge.json and the figures of each row."
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Of the bootstrap.")]
Processes = Annotated[int, typer.Option("--processes", min=1, help="Worker processes.")]


def add_score(app: typer.Typer) -> None:
    """Add the command to the project's command line."""

    @app.command("score")
    def score_command(
        predictions: Predictions,
        references: References,
        profile: Profiles = None,
        sentences: Sentences = None,
        wordnet: WordNet = None,
        out: Out = None,
        seed: Seed = 1,
        processes: Processes = 1,
        as_json: AsJson = False,
    ) -> None:
        """Score predictions against references: ROUGE with 95 % intervals, and other measures."""
        names = list(dict.fromkeys(profile or PROFILE_NAMES[:1]))
        for name in names:
            if name not in PROFILE_NAMES:
                raise ConfigError(
                    f"--profile {name}: unknown; known are {', '.join(PROFILE_NAMES)}"
                )
        threads = thread_count()
        limit_threads(threads)
        with as_filter():
            from stages.score.bare import score_files
            from stages.score.profiles import readers_of

            readers = readers_of(names, sentences, wordnet)
            with _folder(out) as folder:
                found = score_files(
                    predictions,
                    references,
                    readers,
                    folder,
                    lead=LeadConfig(),
                    processes=processes,
                    threads=threads,
                    seed=seed,
                )
            for warning in found["warnings"]:
                sys.stderr.write(f"sumpipe: {warning}\n")
            if as_json:
                print(json.dumps(found, indent=2, ensure_ascii=False))
            else:
                show(found)


@contextlib.contextmanager
def _folder(out: Path | None) -> Iterator[Path]:
    """Give a folder to write in, whose files get to `out` when the body ends well.

    What a killed process left behind is in a folder of its own, and keeps nobody from `out`.

    Raises:
        ConfigError: If `out` has other files, or its name is not UTF-8.
        StorageError: If it cannot be written.
    """
    try:
        if out is not None:
            require_text(out)
            if out.exists() and not (out.is_dir() and all(map(_is_unfinished, out.iterdir()))):
                raise ConfigError(
                    f"--out {out}: is there already; name a new folder or an empty one"
                )
            out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=out) as partial:
            yield Path(partial)
            if out is not None:
                for path in sorted(Path(partial).iterdir(), key=lambda it: it.name == "rouge.json"):
                    path.replace(out / path.name)  # what makes the others count comes last
    except OSError as error:
        if storage_error(error) is None:
            raise
        place = "the folder of temporary files (TMPDIR)" if out is None else f"--out {out}"
        raise StorageError(
            f"{place}: cannot be written ({error.strerror}); name another"
        ) from error


def _is_unfinished(path: Path) -> bool:
    return path.name.startswith(_UNFINISHED)


def show(found: JSON) -> None:
    """Print the content of rouge.json for people: F x 100 with its interval, then the other measures."""
    labels = {name: system["label"] for name, system in found["systems"].items()}
    for name, profile in found["profiles"].items():
        types = list(next(iter(profile["systems"].values())))
        rows = [
            (
                labels[system],
                *(_percent(scores[type_]["fmeasure"], found["rows"]) for type_ in types),
            )
            for system, scores in profile["systems"].items()
        ]
        print_table((name, *types), rows)
        print(
            f"sentences: {profile['settings']['sentences']}; stemmer: {profile['settings']['stemmer']}"
        )
        print()
    systems = [name for name in labels if name in found["measures"]]
    names = dict.fromkeys(name for system in systems for name in found["measures"][system])
    print_table(
        ("mean", *(labels[system] for system in systems)),
        [
            (
                name.replace("_", " "),
                *(_mean(found["measures"][system].get(name), found["rows"]) for system in systems),
            )
            for name in names
        ],
    )
    print()
    brackets = " [95 % interval]" if found["rows"] > 1 else ""
    print(
        f"{several(found['rows'], 'row')}, mean F x 100{brackets}, exact match "
        f"{100 * found['exact_match']:.2f} %"
    )


def _percent(figure: dict[str, float], rows: int) -> str:
    mean = f"{100 * figure['mean']:.2f}"
    return mean if rows == 1 else f"{mean} [{100 * figure['low']:.2f}, {100 * figure['high']:.2f}]"


def _mean(figure: dict[str, float] | None, rows: int) -> str:
    """Return a mean with its interval, and of how many rows it is where that is not all."""
    if figure is None:
        return "-"
    interval = "" if figure["rows"] == 1 else f" [{figure['low']:.3f}, {figure['high']:.3f}]"
    counted = "" if figure["rows"] == rows else f" of {several(int(figure['rows']), 'row')}"
    return f"{figure['mean']:.3f}{interval}{counted}"
