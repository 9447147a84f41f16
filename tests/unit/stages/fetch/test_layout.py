"""Which files make up which split: by name, by glob, or one source."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import validate
from pipeline.errors import ConfigError, DataError
from stages.fetch.config import FetchConfig, LocalDataset
from stages.fetch.layout import local_files, matching, passed_over, split_files


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x", encoding="utf-8")
    return folder


def found(folder: Path, **settings: Any) -> dict[str, list[str]]:
    dataset = LocalDataset.model_validate({"source": "local", "path": folder, **settings})
    root = folder if folder.is_dir() else folder.parent
    return {
        split: [path.relative_to(root).as_posix() for path in paths]
        for split, paths in local_files(dataset).items()
    }


@pytest.mark.parametrize(
    ("names", "train", "valid"),
    [
        (["train.jsonl", "valid.jsonl", "test.jsonl"], ["train.jsonl"], ["valid.jsonl"]),
        (["train.csv.gz", "validation.csv", "test.tsv.zst"], ["train.csv.gz"], ["validation.csv"]),
        (
            [
                "train.source",
                "train.target",
                "val.source",
                "val.target",
                "test.source",
                "test.target",
            ],
            ["train.source"],
            ["val.source"],
        ),
        (
            [f"{split}.{end}.txt" for split in ("train", "dev", "test") for end in ("src", "tgt")],
            ["train.src.txt"],
            ["dev.src.txt"],
        ),
        (
            [
                *("train-00001-of-00002.parquet", "train-00000-of-00002.parquet"),
                *("validation-00000-of-00001.parquet", "test-00000-of-00001.parquet"),
            ],
            ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"],
            ["validation-00000-of-00001.parquet"],
        ),
        (
            ["train/b.jsonl", "train/a.jsonl", "train/README.md", "dev/a.csv", "test/x.parquet"],
            ["train/a.jsonl", "train/b.jsonl"],
            ["dev/a.csv"],
        ),
    ],
)
def test_splits_are_found_by_their_names(
    names: list[str], train: list[str], valid: list[str], tmp_path: Path
) -> None:
    files = found(touch(tmp_path, *names, "README.md", "training_notes.txt", "trainer.jsonl"))
    assert files["train"] == train and files["valid"] == valid and len(files["test"]) == 1


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["train.jsonl", "valid.jsonl"], "no file for the test split"),
        (["train.jsonl", "valid.jsonl", "dev.csv", "test.jsonl"], "2 files for the valid split"),
        (
            ["train.jsonl", "train/a.jsonl", "valid.jsonl", "test.csv"],
            "2 files for the train split",
        ),
        (["train.source", "valid.csv", "test.csv"], "expected train.target beside it"),
        (["train/notes.md", "valid.csv", "test.csv"], "no file of a known format"),
    ],
)
def test_what_is_missing_or_ambiguous_is_told(names: list[str], told: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=told):
        split_files(touch(tmp_path, *names))


def test_globs_folders_and_files_may_be_given(tmp_path: Path) -> None:
    touch(tmp_path, "a/2.jsonl", "a/1.jsonl", "a/._1.jsonl", "b/x.source", "b/x.target", "c/t.csv")
    files = found(tmp_path, files={"train": "a/*.jsonl", "valid": "b/x.*", "test": "c"})
    assert files == {
        "train": ["a/1.jsonl", "a/2.jsonl"],
        "valid": ["b/x.source"],
        "test": ["c/t.csv"],
    }
    absolute = {"train": str(tmp_path / "*" / "[12].jsonl"), "valid": "b", "test": "**/t.csv"}
    assert found(tmp_path, files=absolute) == files


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (
            {"train": "a.jsonl", "valid": "*.jsonl", "test": "t.csv"},
            "belongs to train and to valid",
        ),
        ({"train": "a.jsonl", "valid": "none*", "test": "t.csv"}, "files.valid.*neither a file"),
        (
            {"train": "a.jsonl", "valid": "notes.doc", "test": "t.csv"},
            "format of .*notes.doc is not",
        ),
        (
            {"train": "**.jsonl", "valid": "t.csv", "test": "t.csv"},
            r"files.train: '\*\*.jsonl' is no glob .*\*\*/\*.jsonl",
        ),
        (
            {"train": "a.jsonl", "valid": "x" * 300, "test": "t.csv"},
            r"files.valid: .*x: cannot be read \(File name too long\); give a shorter name",
        ),
    ],
)
def test_a_wrong_glob_names_its_setting(files: dict[str, str], told: str, tmp_path: Path) -> None:
    touch(tmp_path, "a.jsonl", "t.csv", "notes.doc")
    with pytest.raises(DataError, match=told):
        found(tmp_path, files=files)


def test_one_source_is_a_file_a_folder_or_a_glob(tmp_path: Path) -> None:
    touch(tmp_path, "rows/1.jsonl", "rows/2.jsonl.gz", "rows/._2.jsonl", "rows/notes.md")
    derive = {"valid": 0.1, "test": 0.1}
    assert found(tmp_path / "rows", derive=derive) == {"all": ["1.jsonl", "2.jsonl.gz"]}
    assert found(tmp_path / "rows" / "1.jsonl", derive=derive) == {"all": ["1.jsonl"]}
    (path,) = local_files(
        LocalDataset.model_validate(
            {"source": "local", "path": tmp_path / "r*" / "*.gz", "derive": derive}
        )
    )["all"]
    assert path == tmp_path / "rows" / "2.jsonl.gz"


@pytest.mark.parametrize(
    "names", [["train.parquet/part-0.parquet"], ["train-0.parquet/part-0.parquet"]]
)
def test_a_folder_of_parts_has_a_files_name(names: list[str], tmp_path: Path) -> None:
    """As Spark and Dask write it, with notes and checksums beside the parts."""
    folder = Path(names[0]).parent
    touch(tmp_path, *names, f"{folder}/part-1.parquet", f"{folder}/.part-0.parquet.crc")
    touch(tmp_path, f"{folder}/_SUCCESS", f"{folder}/.part-2.parquet", "valid.csv", "test.csv")
    assert found(tmp_path)["train"] == [f"{folder}/part-{number}.parquet" for number in (0, 1)]
    files = {"train": str(folder), "valid": "valid.csv", "test": "test.csv"}
    assert found(tmp_path, files=files) == found(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ["train-0.jsonl", "train-0.parquet"],
        ["train-0.jsonl", "train-1.csv"],
        ["train-0.jsonl", "train-0.jsonl.gz"],
        ["train/a.jsonl", "train/a.json"],
        ["train/a.source", "train/a.target", "train/b.jsonl"],
    ],
)
def test_one_split_in_two_formats_is_refused(names: list[str], tmp_path: Path) -> None:
    """Rows without ids would be there twice, and nobody would be told."""
    with pytest.raises(DataError, match="two formats may be the same rows twice"):
        split_files(touch(tmp_path, *names, "valid.csv", "test.csv"))


@pytest.mark.parametrize(
    ("parts", "train", "told"),
    [
        ([0, 2], None, r"of the 3 parts train-\*-of-00003\* these are not there: 1 "),
        ([1, 2], None, "not there: 0 "),
        ([0, 1], "train-*.jsonl", "files.train: .*not there: 2 "),
        ([0], "p", "not there: 1, 2 "),
        ([0, 1, 2], None, ""),
        ([1, 2, 3], None, ""),
        ([0, 2], "train-00000-of-00003.jsonl", ""),  # this one alone is meant
        ([0, 1, 2], "train-0000[01]*.jsonl", ""),
    ],
)
def test_lost_parts_are_told(
    parts: list[int], train: str | None, told: str, tmp_path: Path
) -> None:
    below = "p/" if train == "p" else ""
    touch(tmp_path, *(f"{below}train-{part:05d}-of-00003.jsonl" for part in parts))
    touch(tmp_path, "valid.csv", "test.csv", "train-00001-of-00003.jsonl.tmp")
    files = {"files": {"train": train, "valid": "valid.csv", "test": "test.csv"}} if train else {}
    if told:
        with pytest.raises(DataError, match=told):
            found(tmp_path, **files)
    else:
        assert found(tmp_path, **files)["train"]


@pytest.mark.parametrize("how", ["named", "folder", "glob"])
def test_a_part_that_is_there_twice_is_refused(how: str, tmp_path: Path) -> None:
    """As a second download under another checksum leaves it: the rows would be there twice."""
    below = "p/" if how == "folder" else ""
    touch(
        tmp_path,
        "valid.csv",
        "test.csv",
        *(f"{below}train-00001-of-00001-{tag}.jsonl" for tag in "ab"),
    )
    train = {"folder": "p", "glob": "train-*"}.get(how)
    files = {"files": {"train": train, "valid": "valid.csv", "test": "test.csv"}} if train else {}
    told = r"-a\.jsonl and .*-b\.jsonl: part 1 of 1 is there twice.* if both are wanted, rename one"
    with pytest.raises(DataError, match=told):
        found(tmp_path, **files)


def test_parts_of_two_kinds_are_not_the_same_part(tmp_path: Path) -> None:
    touch(tmp_path, *(f"rows/{n}-of-2.{kind}.jsonl" for n in (1, 2) for kind in ("news", "blogs")))
    assert len(found(tmp_path / "rows", derive={"valid": 0.1, "test": 0.1})["all"]) == 4


@pytest.mark.parametrize("mark", [".", "-", "_"])
def test_a_part_of_another_kind_is_not_the_lost_one(mark: str, tmp_path: Path) -> None:
    for whole, part in (("train", "valid"), ("valid", "train")):
        folder = touch(tmp_path / whole, *(f"rows-{n}-of-2{mark}{whole}.jsonl" for n in (1, 2)))
        touch(folder, f"rows-1-of-2{mark}{part}.jsonl", "test.csv")
        files = {split: f"*{mark}{split}.jsonl" for split in ("train", "valid")}
        told = (
            rf"files\.{part}: .* 2 parts rows-\*-of-2\*{re.escape(mark)}{part}\* .* not there: 0 "
        )
        with pytest.raises(DataError, match=told):
            found(folder, files={**files, "test": "test.csv"})


@pytest.mark.parametrize("tag", ["b42a775f407cee4", "1b4e28ba-2fa1-11d2-883f-0016d3cca42"])
def test_each_part_has_a_checksum_of_its_own(tag: str, tmp_path: Path) -> None:
    """As older files of the Hub, and as Spark names what it writes."""
    names = [f"train-0000{n}-of-00003-{tag}{n}.parquet" for n in range(3)]
    touch(tmp_path, *names, "valid.csv", "test.csv")
    assert found(tmp_path)["train"] == names
    (tmp_path / names[1]).unlink()
    with pytest.raises(DataError, match=r"parts train-\*-of-00003\* these are not there: 1 "):
        found(tmp_path)


def test_one_file_is_not_two_splits(tmp_path: Path) -> None:
    touch(tmp_path, "train.jsonl", "test.jsonl")
    (tmp_path / "valid.jsonl").symlink_to("train.jsonl")
    told = r"dataset\.path: .*valid\.jsonl, as .*train\.jsonl, belongs to train and to valid"
    with pytest.raises(DataError, match=told):
        found(tmp_path)
    (tmp_path / "valid.jsonl").unlink()
    (tmp_path / "valid.jsonl").hardlink_to(tmp_path / "train.jsonl")
    with pytest.raises(DataError, match=told):
        found(tmp_path)
    (tmp_path / "dev.jsonl").symlink_to("train.jsonl")
    with pytest.raises(DataError, match=r"dev\.jsonl, as .* belongs to train and to valid"):
        matching(tmp_path, [{"train": "train.*", "valid": "dev.*", "test": "test.*"}], "")


@pytest.mark.parametrize(
    "name", ["b.jsonl.bz2", "b.JSONL", "B.Csv.GZ", "b.parquet.gz", "b.csv.zip", "b.src.txt.xz"]
)
@pytest.mark.parametrize("prefix", ["train/", "train-"])
def test_rows_in_a_form_that_is_not_read_are_refused(
    name: str, prefix: str, tmp_path: Path
) -> None:
    touch(tmp_path, f"{prefix}0.jsonl", f"{prefix}{name}", "valid.csv", "test.csv")
    with pytest.raises(DataError, match=rf"{prefix}{name} is not read, by its name; known: "):
        found(tmp_path)


def test_what_is_passed_over_is_known(tmp_path: Path) -> None:
    names = ("train/0.source", "train/0.target", "train/.a.jsonl", "valid.csv", "test.csv")
    touch(tmp_path, *names, "train/sub/a.jsonl", "train/x.md5", "README.md", "old/a.csv")

    def names_of(**settings: object) -> list[str]:
        dataset = LocalDataset.model_validate({"source": "local", "path": tmp_path, **settings})
        return [path.relative_to(tmp_path).as_posix() for path in passed_over(dataset)]

    assert names_of() == ["README.md", "old", "train/sub", "train/x.md5"]
    files = {"train": "train", "valid": "v*", "test": "test.csv"}
    assert names_of(files=files) == ["train/sub", "train/x.md5"]
    derive = {"valid": 0.1, "test": 0.1}
    assert names_of(path=tmp_path / "train", derive=derive) == ["train/sub", "train/x.md5"]
    assert names_of(path=tmp_path / "test.csv", derive=derive) == []


@pytest.mark.parametrize(
    ("link", "train"),
    [
        ("train.jsonl", None),
        ("train.jsonl", "train.jsonl"),
        ("train.jsonl", "t*.jsonl"),
        ("train/a.jsonl", None),
        ("train/a.jsonl", "train"),
        ("train/a.jsonl", "**/*.jsonl"),
    ],
)
def test_a_link_to_nowhere_is_named_with_its_target(
    link: str, train: str | None, tmp_path: Path
) -> None:
    touch(tmp_path, "valid.csv", "test.csv", *(["train/b.jsonl"] if "/" in link else []))
    (tmp_path / link).symlink_to("moved away.jsonl")
    files = {"files": {"train": train, "valid": "valid.csv", "test": "test.csv"}} if train else {}
    with pytest.raises(
        DataError, match=rf"{link}: is a link to moved away\.jsonl, which is not there"
    ):
        found(tmp_path, **files)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"derive": {"valid": 0.5, "test": 0.5}}, "leave nothing to train on"),
        ({"derive": {"valid": 0.1, "test": 0}}, "dataset.derive.test"),
        (
            {
                "derive": {"valid": 0.1, "test": 0.1},
                "files": {"train": "a", "valid": "b", "test": "c"},
            },
            "exclude one another",
        ),
        ({"on_bad_row": "skip"}, "on_bad_row"),
        ({"max_line_bytes": 0}, "max_line_bytes"),
        ({"max_line_bytes": 1 << 64}, "max_line_bytes.*less than 2147483648"),
        ({"quoting": "some"}, "quoting"),
    ],
)
def test_settings_that_cannot_be_right_are_named(settings: dict[str, Any], told: str) -> None:
    dataset = {"source": "local", "path": "x", **settings}
    with pytest.raises(ConfigError, match=told):
        validate(FetchConfig, {"dataset": dataset, "model": {"source": "scratch"}}, "test")
