"""Files of the hub come whole or not at all, once, and a failure says what to do."""

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import constants, hf_hub_download

from stages.config import DownloadRun
from stages.download import download
from tests.hub import Hub, git_hash

ROOT = Path(__file__).parent.parent
REPO = "someone/problems"
OLD, NEW = "0" * 39 + "1", "0" * 39 + "2"
TRAIN, TEST = ("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet")
FILES = {
    TRAIN: os.urandom(4000),
    TEST: os.urandom(3000),
    "README.md": b"# Problems\n",
    "images.zip": os.urandom(2000),
}


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that would have been waited."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, waits: list[float]) -> Iterator[Hub]:
    with Hub("dataset", REPO, {OLD: FILES, NEW: FILES | {"README.md": b"# Better\n"}}, {"main": NEW}) as hub:
        # As the library has read them from HF_ENDPOINT and its like, perhaps long ago.
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield hub


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., DownloadRun]:
    """A run with some settings changed."""

    def changed(out: str = "out", **settings: Any) -> DownloadRun:
        usual: dict[str, Any] = {
            "kind": "dataset",
            "repo": REPO,
            "revision": OLD,
            "files": ("data/*.parquet", "README.md"),
        }
        return DownloadRun(out=str(tmp_path / out), name="real", **usual | settings)

    return changed


Run = Callable[..., DownloadRun]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def told(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "download.json").read_text())
    return found


def refused(run: DownloadRun) -> str:
    with pytest.raises(ValueError) as error:
        download(run)
    return str(error.value)


def command(message: str) -> list[str]:
    return shlex.split(next(line for line in message.splitlines() if line.startswith("    hf ")))


def test_files_are_fetched_whole_into_their_places(hub: Hub, run: Run, tmp_path: Path) -> None:
    download(run())
    got = contents(tmp_path / "out")
    assert got.pop("download.json")
    assert got == {name: FILES[name] for name in (TRAIN, TEST, "README.md")}
    assert sorted(hub.fetched()) == sorted(got), "nothing else, nothing twice"


def test_what_came_is_recorded(hub: Hub, run: Run, tmp_path: Path) -> None:
    download(run(files=("README.md", "data/test*")))
    text = (tmp_path / "out" / "download.json").read_text()
    files = {
        name: {"sha256": hashlib.sha256(FILES[name]).hexdigest(), "size": len(FILES[name])}
        for name in ("README.md", TEST)
    }
    record = {"commit": OLD, "files": files, "kind": "dataset", "repo": REPO, "revision": OLD}
    assert text == json.dumps(record, indent=2, sort_keys=True) + "\n"


def test_a_branch_is_recorded_with_its_commit(hub: Hub, run: Run, tmp_path: Path) -> None:
    download(run(revision="main"))
    assert (told(tmp_path / "out")["revision"], told(tmp_path / "out")["commit"]) == ("main", NEW)
    hub.branches["main"] = OLD  # it may move, and is taken as it stands
    download(run(revision="main"))
    assert told(tmp_path / "out")["commit"] == OLD
    assert contents(tmp_path / "out")["README.md"] == FILES["README.md"]


def test_a_branch_that_moves_meanwhile_changes_nothing(
    hub: Hub, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def move(*_: object, **__: object) -> None:
        hub.branches["main"] = OLD

    monkeypatch.setattr("stages.download._check_space", move)  # between the listing and the files
    download(run(revision="main"))
    assert contents(tmp_path / "out")["README.md"] == hub.commits[NEW]["README.md"]


def test_a_model_comes_from_where_models_are(hub: Hub, run: Run, tmp_path: Path) -> None:
    hub.kind = "model"
    download(run(kind="model"))
    assert contents(tmp_path / "out")[TRAIN] == FILES[TRAIN]


def test_files_are_links_to_the_cache_or_else_copies(
    hub: Hub, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    download(run("linked"))

    def no_links(*_: object) -> None:
        raise OSError("not on this disk")

    monkeypatch.setattr(os, "link", no_links)
    download(run("copied"))
    blob = next((tmp_path / "cache").rglob(hashlib.sha256(FILES[TRAIN]).hexdigest()))
    assert (tmp_path / "linked" / TRAIN).samefile(blob)
    assert not (tmp_path / "copied" / TRAIN).samefile(blob)
    assert contents(tmp_path / "copied") == contents(tmp_path / "linked")


def test_nothing_of_an_earlier_download_stays(hub: Hub, run: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.json").write_text("{}")
    download(run(files=("*",)))
    download(run(files=("data/train*",)))
    assert contents(tmp_path / "out").keys() == {"run.json", "download.json", TRAIN}


@pytest.mark.parametrize("status", [503, 429, 0])
@pytest.mark.parametrize("where", ["GET /api/.*/revision", "GET /api/.*/tree", "HEAD", "GET .*/resolve"])
def test_a_bad_moment_passes(hub: Hub, run: Run, tmp_path: Path, waits: list[float], where: str, status: int) -> None:
    hub.fail = [(where, status)] * 2
    download(run(files=("data/train*",)))
    assert contents(tmp_path / "out")[TRAIN] == FILES[TRAIN]
    assert not hub.fail, "both failures came"
    assert waits


def test_a_bad_moment_between_two_questions_passes(hub: Hub, run: Run, tmp_path: Path) -> None:
    hub.fail = [("/revision/", None), ("/revision/", 503)]
    download(run(revision="main"))
    assert told(tmp_path / "out")["commit"] == NEW and not hub.fail


def test_waits_grow_and_end(hub: Hub, run: Run, tmp_path: Path, waits: list[float]) -> None:
    hub.fail = [("GET .*/train.*", 500)] * 100
    message = refused(run())
    assert waits == [4, 8, 16, 32] and len(hub.fail) == 95
    assert "500" in message and command(message)
    assert not (tmp_path / "out").exists()


def test_a_hub_that_does_not_answer_is_not_waited_for(hub: Hub, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.download.TIMEOUT", 0.1)
    hub.fail = [("", -1)] * 100
    assert "ReadTimeout" in refused(run()) and len(hub.asked) == 5


def test_a_page_that_asks_for_a_login_is_no_hub(hub: Hub, run: Run, waits: list[float]) -> None:
    hub.fail = [("", 200)] * 100
    message = refused(run())
    assert "the answer is not a hub's" in message and command(message) and not waits


def test_what_xet_raises_is_no_traceback(hub: Hub, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def xet(*_: object, **__: object) -> None:
        raise RuntimeError("Task error: File reconstruction error: CAS Client Error: ...")

    monkeypatch.setattr("stages.download.snapshot_download", xet)
    message = refused(run())
    assert "CAS Client Error" in message and "HF_HUB_DISABLE_XET=1" in message and command(message)


def test_a_broken_transfer_goes_on_where_it_broke(
    hub: Hub, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # it goes on after the last whole one
    hub.cut[TRAIN] = 1500
    download(run())
    assert contents(tmp_path / "out")[TRAIN] == FILES[TRAIN]
    assert [line for line in hub.asked if "bytes=" in line] == [
        f"GET /datasets/{REPO}/resolve/{OLD}/{TRAIN} bytes=1000-"
    ]


def test_files_that_came_are_not_fetched_again(hub: Hub, run: Run, tmp_path: Path) -> None:
    # The last of the files: whether others come after one that failed is a race in the library.
    hub.fail = [("GET .*/README.*", 500)] * 5
    refused(run())
    before = len(hub.fetched())
    download(run())
    assert {TRAIN, TEST} < set(hub.fetched()[:before]) and hub.fetched()[before:] == ["README.md"]
    assert contents(tmp_path / "out")[TEST] == FILES[TEST]


@pytest.mark.parametrize("offline", [True, False])
def test_what_the_cache_has_needs_no_hub(
    hub: Hub, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: bool
) -> None:
    download(run("first"))
    hub.close()
    hub.asked.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    download(run("second"))
    assert contents(tmp_path / "second") == contents(tmp_path / "first") and not hub.asked


def test_a_branch_of_the_cache_is_taken_only_if_asked_for(
    hub: Hub, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    download(run(revision="main"))
    hub.close()
    message = refused(run("second", revision="main"))
    assert command(message) and "then set HF_HUB_OFFLINE=1" in message
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    download(run("second", revision="main"))
    assert told(tmp_path / "second")["commit"] == NEW


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("offline", [True, False])
def test_half_a_snapshot_is_none(
    hub: Hub, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: bool, offline: bool
) -> None:
    if listed:
        download(run("first", files=("data/train*",)))
    else:  # as other programs leave it: snapshot_download, offline, gives this folder without a word
        hf_hub_download(REPO, TRAIN, repo_type="dataset", revision=OLD)
    hub.close()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    message = refused(run())
    assert ("HF_HUB_OFFLINE is set" in message) is offline and ("ConnectError" in message) is not offline
    assert command(message)[:3] == ["hf", "download", REPO]
    assert not (tmp_path / "out").exists()


def test_the_way_around_the_network_works(hub: Hub, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    message = refused(run())
    there = tmp_path / "there"
    hf = [str(Path(sys.executable).parent / "hf"), *command(message)[1:]]
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(there), "HF_HUB_DISABLE_XET": "1"}
    for more in ([], ["--local-dir", str(tmp_path / "folder")]):
        subprocess.run([*hf, *more], env=environment, check=True, capture_output=True)
    source, target = re.findall(r"\S+/hub/(\S+), to (\S+)", message)[0]
    shutil.copytree(there / "hub" / source, Path(target) / source, symlinks=True)
    download(run())
    for name in (TRAIN, TEST, "README.md"):
        assert contents(tmp_path / "out")[name] == contents(tmp_path / "folder")[name] == FILES[name]
    assert "problems.<split>.folder: FOLDER" in message
    assert "base.<model>.path: FOLDER" in refused(run(kind="model"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"repo": "someone/else"}, "download.real.repo: 'someone/else' is no dataset of "),
        ({"kind": "model"}, f"download.real.repo: '{REPO}' is no model of "),
        ({"repo": "a--b/c"}, "download.real"),
        ({"revision": "dev"}, f"download.real.revision: 'dev' is no revision of {REPO}; see "),
        ({"revision": "f" * 40}, f"download.real.revision: '{'f' * 40}' is no revision of {REPO}; see "),
        ({"files": ("*.md", "train/*")}, f"download.real.files: 'train/*' matches no file of {REPO} at {OLD} (README"),
    ],
)
def test_what_is_not_there_is_not_tried_again(
    hub: Hub, run: Run, waits: list[float], settings: dict[str, Any], said: str
) -> None:
    message = refused(run(**settings))
    assert message.startswith(said) and "\n" not in message
    assert not waits and not hub.fetched()


def test_a_closed_repository_says_how_to_open_it(hub: Hub, run: Run, waits: list[float]) -> None:
    hub.gated = True
    message = refused(run())
    assert message == (
        f"download.real.repo: '{REPO}' is closed to you; accept its terms at {hub.url}/datasets/{REPO}, then log in "
        "(`hf auth login`, or HF_TOKEN)"
    )
    assert not waits


def test_a_name_of_ours_is_not_overwritten(hub: Hub, run: Run) -> None:
    hub.commits[OLD] = FILES | {"download.json": b"{}"}
    assert "'download.json'" in refused(run(files=("*",)))


@pytest.mark.parametrize("name", [TRAIN, "README.md"])
def test_a_garbled_file_is_refused_and_fetched_again(hub: Hub, run: Run, tmp_path: Path, name: str) -> None:
    hub.garble = {name}
    assert refused(run()).startswith(f"download.real: {name}: not what the hub has")
    assert not (tmp_path / "out").exists()
    download(run())
    assert contents(tmp_path / "out")[name] == FILES[name]
    assert hub.fetched().count(name) == 2 and len(hub.fetched()) == 4


def test_a_file_that_was_changed_in_place_is_found(hub: Hub, run: Run, tmp_path: Path) -> None:
    download(run())  # files are linked, so this changes the cache too
    (tmp_path / "out" / "README.md").write_bytes(b"# Problem")
    assert "README.md" in refused(run("second"))


def test_a_cache_that_was_copied_without_its_links_is_good(
    hub: Hub, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    download(run("there"))
    shutil.copytree(constants.HF_HUB_CACHE, tmp_path / "copy", symlinks=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "copy"))
    hub.close()
    download(run())
    assert contents(tmp_path / "out") == contents(tmp_path / "there")
    (tmp_path / "out" / TRAIN).write_bytes(FILES[TRAIN][:-1])
    assert TRAIN in refused(run())


def test_a_full_disk_is_seen_before(hub: Hub, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = sum(len(FILES[name]) for name in FILES if name.startswith("data/") or name == "README.md")
    free = SimpleNamespace(free=size - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    message = refused(run())
    assert message.startswith("download.real: ") and str(tmp_path) in message and not hub.fetched()
    free.free = size
    download(run())
    free.free = 0
    download(run("second"))  # is all there, and a link takes no space


def test_another_disk_must_hold_a_copy(hub: Hub, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    download(run())
    stat, results = Path.stat, tmp_path / "results"
    results.mkdir()

    def elsewhere(path: Path, **options: Any) -> Any:
        found = stat(path, **options)
        return SimpleNamespace(st_dev=-1, st_mode=found.st_mode) if path == results else found

    monkeypatch.setattr(Path, "stat", elsewhere)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0 if path == results else 1e12))
    assert f"the disk of {results} has 0 GB" in refused(run("results/real"))


def test_the_stage_as_it_is_run(hub: Hub, run: Run, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(run().canonical_json())

    def stage(**environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "stages.download", str(tmp_path / "run.json")],
            env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path / "home")} | environment,
            capture_output=True,
            text=True,
        )

    refusal = stage(HF_HUB_OFFLINE="1")
    assert refusal.returncode == 1 and "Traceback" not in refusal.stderr
    assert command(refusal.stderr) and str(tmp_path / "home" / "hub") in refusal.stderr
    assert stage(HF_ENDPOINT=hub.url).returncode == 0
    shutil.rmtree(tmp_path / "out")
    assert stage(HF_HUB_OFFLINE="1").returncode == 0
    assert contents(tmp_path / "out")[TRAIN] == FILES[TRAIN]


def test_git_names_files_as_we_do() -> None:
    """`printf 'what is up, doc?' | git hash-object --stdin` (Chacon and Straub, Pro Git, 10.2)."""
    assert git_hash(b"what is up, doc?") == "bd9dbf5aae1a3862dd1526723246b20206e5fc37"
