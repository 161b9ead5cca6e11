"""Files and folders appear whole or not at all."""

import hashlib
import os
from pathlib import Path

import pytest

from stages.files import GrowingFile, link_or_copy, sha256, whole_folder


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_a_link_is_the_same_file_and_a_copy_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("all")
    link_or_copy(tmp_path / "a", tmp_path / "link")

    def no_link(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(os, "link", no_link)
    link_or_copy(tmp_path / "a", tmp_path / "copy")
    assert (tmp_path / "a").samefile(tmp_path / "link") and not (tmp_path / "a").samefile(tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == "all"


def test_a_folder_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), whole_folder(tmp_path / "run") as partial:
        (partial / "half.csv").write_text("ha")
        raise RuntimeError
    assert names(tmp_path) == set()


def test_a_folder_takes_new_entries_and_keeps_its_own(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "images").mkdir(parents=True)
    (run / "images" / "old.png").touch()
    (run / "run.json").write_text("{}")  # what the workflow put there
    with whole_folder(run) as partial:
        (partial / "images").mkdir()
        (partial / "images" / "new.png").touch()
        (partial / "train.jsonl").touch()
    assert names(run) == {"images", "images/new.png", "run.json", "train.jsonl"}


def test_what_a_killed_job_left_is_not_taken_over(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "run") as partial:
        pass
    partial.mkdir()
    (partial / "from_before.csv").touch()
    with whole_folder(tmp_path / "run"):
        pass
    assert names(tmp_path) == {"run"}


def test_sha256_is_the_standard_one(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc" * 100_000)
    assert sha256(tmp_path / "x") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_the_hash_of_a_growing_file_is_that_of_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"one\n")
    file = GrowingFile(path)
    assert file.sha256() == (4, sha256(path))
    with path.open("ab") as rows:
        rows.write(b"two\n" * 500_000)
    assert file.sha256() == (2_000_004, sha256(path)) == file.sha256()
