"""DVC and Snakemake for real, in clones of a small study: what is cached, pushed, pulled, and never believed."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.test_workflow import PARTS, ROOT, as_yaml, wait_for
from workflow.dvc.planning import unrecorded

pytestmark = pytest.mark.skipif(shutil.which("dvc") is None, reason="needs DVC, which has an environment of its own")
CELL = "qwen2_5_vl_tiny/geometry_vision"
RL = f"results/rl/{CELL}/reinforce_plus_plus"
LEARNING_RATE = "rl.reinforce_plus_plus.optimizer.learning_rate"
BY_RL = ["rl", "evaluate", "judge", "scores", "figures", "tables", "report"]


class Clone:
    """A checkout with the commands that people use there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *words: str, fails: bool = False, **more: str) -> str:
        """What a command says, on both of its outputs."""
        ran = subprocess.run(
            words,
            cwd=self.folder,
            env=self.environment | more,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert (ran.returncode != 0) == fails, ran.stdout[-6000:] + self.logs()
        return ran.stdout

    @property
    def environment(self) -> dict[str, str]:
        who = {f"GIT_{role}_{what}": "x@y" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        options = {"SNAKEMAKE_OPTIONS": "--cores 2", "PYTHONPATH": str(self.folder), "DVC_NO_ANALYTICS": "1"}
        return os.environ | who | options | {"PATH": path}

    def logs(self) -> str:
        return "".join(f"\n{path}:\n{path.read_text()[-1500:]}" for path in self.folder.glob("logs/**/*.log"))[-6000:]

    def clone(self, folder: Path) -> "Clone":
        self.run("git", "clone", "--quiet", ".", str(folder))
        return Clone(folder)

    def commit(self) -> None:
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", "as it is now")

    def change(self, changes: dict[str, Any]) -> None:
        """Give keys of the study, by dotted path, other values."""
        path = self.folder / "config/config.yaml"
        raw = yaml.safe_load(path.read_text())
        for key, value in changes.items():
            *parents, last = key.split(".")
            place = raw
            for parent in parents:
                place = place[parent]
            place[last] = value
        path.write_text(as_yaml(raw))

    def planned(self) -> dict[str, int]:
        """How many jobs of each rule Snakemake would run."""
        said = self.run("snakemake", "--dry-run", "--cores", "2")
        table = re.search(r"^Job stats:\n.*\n-.*\n((?:.+\n)+)", said, re.M)
        rows = [line.split() for line in table[1].splitlines()] if table else []
        return {rule: int(count) for rule, count in rows if rule not in ("all", "total")}

    def repro(self, *targets: str) -> list[str]:
        """Let DVC bring stages up to date: those whose command ran."""
        return re.findall(r"^Running stage '(\w+)'", self.run("dvc", "repro", *targets), re.M)

    def facts(self, folder: str) -> dict[str, tuple[bytes, int]]:
        """Content and time of change of the files below a folder."""
        files = [path for path in (self.folder / folder).rglob("*") if path.is_file()]
        return {str(path.relative_to(self.folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}

    def settings(self, run: str) -> dict[str, Any]:
        """The settings in a run.json."""
        found: dict[str, Any] = json.loads((self.folder / run / "run.json").read_text())["settings"]
        return found


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A repository whose small study was run by DVC, committed, and pushed to a remote that is a folder."""
    base = tmp_path_factory.mktemp("dvc")
    here = Clone(base / "origin")
    here.folder.mkdir()
    for part in [*PARTS[:-2], ".gitignore", ".dvcignore", ".dvc/.gitignore", ".dvc/config", ".dvc/plots"]:
        (here.folder / part).parent.mkdir(exist_ok=True)
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, here.folder / part)
    shutil.copy(ROOT / "config/smoke.yaml", here.folder / "config/config.yaml")
    scheme = yaml.safe_load((ROOT / "config/scores.yaml").read_text())
    scheme["statistics"]["replicates"] = 100
    here.change(
        {
            "scores": scheme,
            "study.models": ["qwen2_5_vl_tiny"],
            "study.methods": ["vanilla", "sft", "reinforce_plus_plus"],
            "study.seeds": [0],
            "evaluate.settings": {"pass@1 t=0.01": {"samples": 1, "temperature": 0.01, "top_p": 0.001}},
        }
    )
    here.run("git", "init", "--quiet")
    here.run("dvc", "remote", "add", "--default", "folder", str(base / "remote"))
    here.run("python", "workflow/dvc/generate.py")
    here.commit()
    assert set(here.repro()) == {"data", "base", "preflight", "data_report", "sft", *BY_RL}
    here.commit()
    here.run("dvc", "push")
    return here


@pytest.fixture
def clone(origin: Clone, tmp_path: Path) -> Clone:
    """A fresh clone elsewhere, with nothing pulled."""
    return origin.clone(tmp_path / "somewhere else")


# --- caching ---------------------------------------------------------------------------------------------------------


def test_a_second_time_dvc_runs_nothing(origin: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    assert origin.repro() == []
    assert origin.planned() == {}
    assert "up to date" in origin.run("dvc", "status")
    # Where Snakemake keeps its records is its own business, so a new one must be found to keep them there still.
    monkeypatch.chdir(origin.folder)
    rules = [path.name for path in Path("results").iterdir()]
    assert len(rules) > 10 and unrecorded(rules) == set()
    (origin.folder / ".snakemake/metadata").rename("elsewhere")
    try:
        assert unrecorded(["rl", "sft", "nothing"]) == {"rl", "sft"}
    finally:
        Path("elsewhere").rename(".snakemake/metadata")


def test_an_rl_setting_and_a_seed_run_rl_and_what_is_new(origin: Clone, clone: Clone) -> None:
    """Snakemake has no record of pulled files and would take them for current; so would the lock."""
    clone.run("dvc", "pull")
    trained = clone.facts("results/rl")
    clone.change({LEARNING_RATE: 1e-3})
    before = {name: clone.facts(f"results/{name}") for name in ("data", "base", "sft", "weights/sft")}
    assert clone.repro() == BY_RL
    assert {name: clone.facts(f"results/{name}") for name in before} == before
    assert clone.settings(f"{RL}/seed0")["optimizer"]["learning_rate"] == 1e-3
    updates = f"{RL}/seed0/updates.jsonl"
    assert clone.facts("results/rl")[updates][0] != trained[updates][0]
    lock, old = (yaml.safe_load((of.folder / "dvc.lock").read_text())["stages"]["rl"] for of in (clone, origin))
    recorded = lock["params"]["config/config.yaml"]["rl"]["reinforce_plus_plus"]["optimizer"]["learning_rate"]
    assert recorded == 1e-3 and lock["outs"] != old["outs"]
    assert clone.planned() == {}

    clone.change({"study.seeds": [0, 1]})
    before = clone.facts(f"{RL}/seed0") | clone.facts("results/sft")
    assert set(clone.repro()) == {"sft", *BY_RL}
    after = clone.facts("results/rl") | clone.facts("results/sft")
    assert {name: fact for name, fact in after.items() if name in before} == before
    assert f"{RL}/seed1/responses.jsonl" in after

    # A seed less: what is there of it is no artifact of the study any more.
    clone.change({"study.seeds": [0]})
    assert clone.repro("rl") == ["rl"]
    assert [*clone.folder.glob(f"aside/*/{RL}/seed1/responses.jsonl")]
    assert not (clone.folder / RL / "seed1/responses.jsonl").exists()
    assert clone.facts(f"{RL}/seed0").items() <= before.items()


def test_code_of_a_figure_redraws_and_trains_nothing(clone: Clone) -> None:
    clone.run("dvc", "pull")
    code = clone.folder / "stages/report/style.py"
    code.write_text(code.read_text() + "\nANOTHER = 1\n")
    again = clone.planned()
    assert set(again) == {"figures", "report"}
    said = clone.run("snakemake", "--cores", "2")
    assert set(re.findall(r"^(?:local)?rule (\w+):", said, re.M)) == {"figures", "report", "all"}
    # DVC finds it too, and Snakemake has done it already.
    assert "figures" in clone.repro()
    assert "up to date" in clone.run("dvc", "status")


def test_snakemake_first_and_dvc_afterwards(clone: Clone) -> None:
    """On a cluster Snakemake runs by itself; DVC then records what there is."""
    clone.run("dvc", "pull")
    clone.change({"study.name": "other"})
    assert "Snakemake has something to do yet" in clone.run("python", "workflow/dvc/commit.py", fails=True)
    clone.run("snakemake", "--cores", "2")
    clone.run("python", "workflow/dvc/commit.py")
    assert clone.repro() == []
    lock = yaml.safe_load((clone.folder / "dvc.lock").read_text())
    assert lock["stages"]["report"]["params"]["config/config.yaml"]["study"]["name"] == "other"


# --- what must not be believed ---------------------------------------------------------------------------------------


def test_snakemake_believes_no_pulled_results_under_other_settings(clone: Clone) -> None:
    clone.run("dvc", "pull")
    before = clone.facts("results")
    clone.change({LEARNING_RATE: 1e-3, "data.geometry_vision.problems.seed": 5})
    said = clone.run("snakemake", "--dry-run", "--cores", "2")
    assert "Results of other settings or code: data 1, rl 1, report 1." in said
    again = clone.planned()
    assert {name: again[name] for name in ("data", "sft", "rl", "evaluate")} == {
        "data": 1,
        "sft": 1,
        "rl": 1,
        "evaluate": 3,
    }
    assert "base" not in again
    # Nothing was lost by looking: the study as it was finds its results as they were.
    clone.run("git", "checkout", "config/config.yaml")
    assert clone.planned() == {}
    assert {name: fact[0] for name, fact in clone.facts("results").items() if ".snakemake" not in name} == {
        name: fact[0] for name, fact in before.items()
    }


def test_nobody_believes_results_that_came_back_from_another_version(clone: Clone) -> None:
    """Snakemake has a record of the setting, and it is of other files than those that are there."""
    clone.run("dvc", "pull")
    clone.planned()
    clone.change({LEARNING_RATE: 1e-3})
    assert clone.repro("rl") == ["rl"]
    made = clone.facts(RL)
    clone.run("git", "checkout", "dvc.lock", "config/config.yaml")
    clone.run("dvc", "checkout")
    clone.change({LEARNING_RATE: 1e-3})
    assert clone.planned()["rl"] == 1
    assert clone.repro("rl") == ["rl"]
    assert clone.settings(f"{RL}/seed0")["optimizer"]["learning_rate"] == 1e-3
    updates = f"{RL}/seed0/updates.jsonl"
    assert clone.facts(RL)[updates][0] == made[updates][0]


def test_inputs_that_two_versions_mixed_are_found(clone: Clone) -> None:
    """Data of another version beside the trainings, both just checked out: only the trainings' hashes can tell."""
    clone.run("dvc", "pull")
    clone.planned()
    data = clone.folder / "results/data/geometry_vision/train.jsonl"
    lines = data.read_text().splitlines(keepends=True)
    data.write_text("".join(lines[1:] + lines[:1]))
    os.utime(data, (1, 1))
    clone.run("dvc", "commit", "--force", "data")
    before = clone.facts("results/sft")
    said = clone.run("dvc", "repro", "--single-item", "sft")
    assert "Nothing vouches for 1 results of sft" in said
    updates = f"results/sft/{CELL}/sft/seed0/updates.jsonl"
    assert clone.facts("results/sft")[updates] != before[updates]


def test_what_snakemake_is_doing_or_was_killed_at_is_left_alone(clone: Clone) -> None:
    clone.run("dvc", "pull")
    (clone.folder / ".snakemake/locks").mkdir(parents=True)
    (clone.folder / ".snakemake/locks/0.input.lock").write_text("results/rl\n")
    clone.run("snakemake", "--unlock", "--cores", "2")
    assert not [*(clone.folder / ".snakemake").glob("locks/*")]
    # A job that is killed leaves its run.json; nobody's finished jobs lose their time for that.
    assert clone.planned() == {}
    before = clone.facts("results/evaluate")
    clone.change({"study.seeds": [0, 1]})
    unfinished = clone.folder / f"results/evaluate/{CELL}/vanilla/seed1/run.json"
    unfinished.parent.mkdir()
    unfinished.write_text("{}\n")
    assert clone.planned()["evaluate"] == 3
    assert {name: fact for name, fact in clone.facts("results/evaluate").items() if "seed0" in name} == before


def test_hard_links_are_refused(clone: Clone) -> None:
    clone.run("dvc", "config", "--local", "cache.type", "reflink,hardlink")
    for command in (
        ["python", "workflow/dvc/stage.py", "rl"],
        ["python", "workflow/dvc/restore.py"],
    ):
        said = clone.run(*command, fails=True)
        assert said.startswith("cache.type of DVC is reflink,hardlink, and hard links do not go with Snakemake")
    clone.run("dvc", "pull")
    assert "hard links do not go" in clone.run("snakemake", "--dry-run", fails=True)


def test_another_study_does_not_take_up_this_ones_results(clone: Clone) -> None:
    clone.run("dvc", "pull")
    said = clone.run("snakemake", "--dry-run", "--configfile", "config/smoke.yaml")
    assert "could not be compared with dvc.lock: dvc.yaml is not that of the rules and config/smoke.yaml" in said
    assert "Results of other settings or code: " in said
    assert clone.planned() == {}


def test_a_tampered_and_a_truncated_artifact_are_named(clone: Clone) -> None:
    clone.run("dvc", "pull")
    assert " files are as recorded, 0 are not here." in clone.run("python", "-m", "stages.verify")
    responses = clone.folder / f"results/evaluate/{CELL}/sft/seed0/responses.jsonl"
    text = responses.read_text()
    responses.write_text(text[: len(text) // 2])
    weights = clone.folder / f"results/weights/rl/{CELL}/reinforce_plus_plus/seed0/epochs/epoch2.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    status = clone.run("dvc", "status")
    assert re.search(r"modified:\s+results/evaluate\n", status)
    assert re.search(r"modified:\s+results/weights/rl\n", status)
    said = clone.run("python", "-m", "stages.verify", fails=True)
    assert f"{responses.relative_to(clone.folder)}: " in said and f"{weights.relative_to(clone.folder)}: " in said
    said = clone.run("snakemake", "--dry-run")
    assert re.search(r"not as in dvc.lock: evaluate: .*changed outs: results/evaluate \(modified\)", said)


def test_weights_that_are_not_all_kept(clone: Clone, tmp_path: Path) -> None:
    """Training writes them elsewhere, evaluation reads them, and then they go; nothing is missed because of that."""
    clone.run("dvc", "pull")
    clone.planned()
    clone.change({"study.keep_weights": {"every": None, "best": True, "last": False}})
    assert "write it again: python workflow/dvc/generate.py" in clone.run("dvc", "repro", fails=True)
    clone.run("python", "workflow/dvc/generate.py")
    assert set(clone.repro()) == {"sft", "weights", *BY_RL}
    assert not [*(clone.folder / "trained").rglob("*.safetensors")]
    of_run = clone.folder / f"results/weights/rl/{CELL}/reinforce_plus_plus/seed0"
    (epoch,) = json.loads((of_run / "kept.json").read_text())["epochs"]
    assert [path.name for path in (of_run / "epochs").glob("*.safetensors")] == [f"epoch{epoch}.safetensors"]
    assert clone.planned() == {}

    assert clone.repro() == []
    before = clone.facts("results/rl") | clone.facts("results/evaluate")
    for code in ("stages/evaluation/evaluate.py", "stages/rl/train.py"):
        code = clone.folder / code
        code.write_text(code.read_text() + "\n# only a comment\n")
    assert clone.repro() == ["rl", "evaluate"]
    assert clone.facts("results/rl") | clone.facts("results/evaluate") == before

    # Another evaluation has to train again; what that was is recorded by the next one, which trains nothing.
    clone.change({"evaluate.max_new_tokens": 20})
    clone.repro()
    trained = clone.facts("results/rl")
    assert not [*(clone.folder / "trained").rglob("*.safetensors")]
    clone.repro()
    assert clone.facts("results/rl") == trained
    assert clone.repro() == []

    clone.commit()
    clone.run("dvc", "push")
    other = clone.clone(tmp_path / "another")
    other.run("dvc", "pull")
    assert other.planned() == {}


def test_dvc_records_no_artifact_that_was_cut_short(clone: Clone) -> None:
    """Its own provenance knows what it was; so it is made again, and not what is made of it made of the rest."""
    clone.run("dvc", "pull")
    clone.planned()
    responses = clone.folder / RL / "seed0/responses.jsonl"
    content = responses.read_bytes()
    responses.write_bytes(content[: content.index(b"\n", len(content) // 2) + 1])
    said = clone.run("dvc", "repro", "rl")
    assert "Nothing vouches for 1 results of rl" in said
    assert responses.read_bytes() == content


# --- pushing and pulling ---------------------------------------------------------------------------------------------


def test_the_scores_alone_are_enough_for_tables_figures_and_page(origin: Clone, clone: Clone) -> None:
    clone.run("python", "workflow/dvc/restore.py", "--pull", "results/scores")
    assert [path.name for path in (clone.folder / "results").iterdir() if path.name != ".gitignore"] == ["scores"]
    said = clone.run("snakemake", "--cores", "2", "all_tables", "all_figures", "all_report")
    ran = set(re.findall(r"^(?:local)?rule (\w+):", said, re.M))
    assert {name for name in ran if not name.startswith("all_")} == {"tables", "figures", "report"}
    for made in ("tables/table3.csv", "tables/metrics.json", f"figures/accuracy_{CELL.replace('/', '_')}.csv"):
        assert (clone.folder / "results" / made).read_bytes() == (origin.folder / "results" / made).read_bytes()


def test_symlinks_into_the_cache_leave_the_cache_whole(clone: Clone) -> None:
    clone.run("dvc", "config", "--local", "cache.type", "symlink")
    clone.run("dvc", "pull")
    assert (clone.folder / RL / "seed0/responses.jsonl").is_symlink()
    assert clone.planned() == {}
    cached = clone.facts(".dvc/cache")
    clone.change({LEARNING_RATE: 1e-3})
    clone.run("snakemake", "--cores", "2", "all_rl")
    assert not (clone.folder / RL / "seed0/responses.jsonl").is_symlink()
    assert {path: content for path, (content, _) in clone.facts(".dvc/cache").items()} == {
        path: content for path, (content, _) in cached.items()
    }


# DVC has an environment of its own, with the servers that its remotes are tried against.
ENVIRONMENT = Path(shutil.which("dvc") or "dvc").resolve().parent
SSH = """
import asyncio, sys
import asyncssh

class Server(asyncssh.SSHServer):
    def begin_auth(self, username):
        return True

    def password_auth_supported(self):
        return True

    def validate_password(self, username, password):
        return (username, password) == ("somebody", "secret")

async def main():
    key = asyncssh.generate_private_key("ssh-ed25519")
    server = await asyncssh.listen("127.0.0.1", 0, server_factory=Server, server_host_keys=[key], sftp_factory=True)
    print(server.get_port(), flush=True)
    await server.wait_closed()

asyncio.run(main())
"""


@pytest.fixture
def s3() -> Iterator[str]:
    """Address of an S3 server of this machine with a bucket `glassbox`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [str(ENVIRONMENT / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: answers(port))
    urllib.request.urlopen(urllib.request.Request(f"{address}/glassbox", method="PUT"))
    yield address
    server.kill()
    server.wait()


def answers(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


def test_an_s3_remote(origin: Clone, clone: Clone, s3: str) -> None:
    access = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_DEFAULT_REGION": "us-east-1"}
    for here in (origin, clone):
        here.run("dvc", "remote", "add", "--local", "--force", "bucket", "s3://glassbox/laptop")
        here.run("dvc", "remote", "modify", "--local", "bucket", "endpointurl", s3)
    origin.run("dvc", "push", "--remote", "bucket", "results/tables", "results/sft", **access)
    clone.run("dvc", "pull", "--remote", "bucket", "results/tables", "results/sft", **access)
    for folder in ("results/tables", "results/sft"):
        theirs, ours = origin.facts(folder), clone.facts(folder)
        assert ours and {path: fact[0] for path, fact in ours.items()} == {p: f[0] for p, f in theirs.items()}


@pytest.fixture
def ssh() -> Iterator[int]:
    """Port of an SSH server of this machine that takes the password `secret`."""
    server = subprocess.Popen([str(ENVIRONMENT / "python"), "-c", SSH], stdout=subprocess.PIPE, text=True)
    assert server.stdout
    yield int(server.stdout.readline())
    server.kill()
    server.wait()


def test_an_ssh_remote(origin: Clone, clone: Clone, ssh: int, tmp_path: Path) -> None:
    for here in (origin, clone):
        here.run("dvc", "remote", "add", "--local", "--force", "host", f"ssh://somebody@127.0.0.1:{ssh}{tmp_path}/far")
        here.run("dvc", "remote", "modify", "--local", "host", "password", "secret")
    origin.run("dvc", "push", "--remote", "host", "results/tables")
    clone.run("dvc", "pull", "--remote", "host", "results/tables")
    theirs, ours = origin.facts("results/tables"), clone.facts("results/tables")
    assert ours and {path: fact[0] for path, fact in ours.items()} == {p: f[0] for p, f in theirs.items()}


def test_a_remote_that_is_not_there_and_a_file_that_it_lacks_are_named(
    origin: Clone, clone: Clone, tmp_path: Path
) -> None:
    clone.run("dvc", "remote", "add", "--local", "gone", "s3://nowhere/x")
    clone.run("dvc", "remote", "modify", "--local", "gone", "endpointurl", "http://127.0.0.1:9")
    clone.run("dvc", "config", "--local", "core.remote", "gone")
    access = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_MAX_ATTEMPTS": "1"}
    said = clone.run("python", "workflow/dvc/restore.py", "--pull", "results/tables", fails=True, **access)
    assert said.startswith("dvc pull results/tables: ") and "127.0.0.1:9" in said and "Traceback" not in said

    remote = Path(origin.run("dvc", "config", "remote.folder.url").strip())
    shutil.copytree(remote, tmp_path / "remote")
    lock = yaml.safe_load((origin.folder / "dvc.lock").read_text())["stages"]["tables"]["outs"][0]["md5"]
    (tmp_path / "remote/files/md5" / lock[:2] / lock[2:]).unlink()
    clone.run("dvc", "remote", "add", "--local", "lacking", str(tmp_path / "remote"))
    clone.run("dvc", "config", "--local", "core.remote", "lacking")
    said = clone.run("python", "workflow/dvc/restore.py", "--pull", "results/tables", fails=True)
    assert "results/tables" in said and "Traceback" not in said
    assert not (clone.folder / "results/tables").exists()


def test_a_cache_that_can_only_be_read(origin: Clone, clone: Clone, tmp_path: Path) -> None:
    """It is checked out from; what is made is whole, and only its recording fails, with the place."""
    cache = tmp_path / "cache"
    cache.mkdir()
    mount = ["mount", "--bind", str(origin.folder / ".dvc/cache"), str(cache)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(cache)], check=True)
        clone.run("dvc", "cache", "dir", "--local", str(cache))
        clone.run("dvc", "checkout")
        assert clone.planned() == {}
        clone.change({"study.name": "other"})
        said = clone.run("dvc", "repro", fails=True)
        assert f"failed to reproduce 'report': [Errno 30] Read-only file system: '{cache}/files/md5/" in said
        assert json.loads((clone.folder / "results/report/run.json").read_text())["study"] == "other"
        clone.run("dvc", "cache", "dir", "--local", str(tmp_path / "own"))
        clone.run("python", "workflow/dvc/commit.py")
        assert clone.repro() == []
    finally:
        subprocess.run(["umount", str(cache)], check=True)


# --- interrupted -----------------------------------------------------------------------------------------------------


def test_a_killed_repro_goes_on_where_it_was(clone: Clone) -> None:
    """DVC, Snakemake and the training die at once; then one command continues, and the training resumes."""
    clone.run("dvc", "pull")
    clone.run("python", "workflow/dvc/restore.py")
    clone.change({LEARNING_RATE: 1e-3, "data.geometry_vision.epochs": 8})
    process = subprocess.Popen(
        ["dvc", "repro", "rl"],
        cwd=clone.folder,
        env=clone.environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for(lambda: len([*clone.folder.glob("checkpoints/rl/**/step*/state.json")]) >= 2)
    of_session = [one for one in psutil.process_iter() if same_session(one, process.pid)]
    for one in of_session:
        one.send_signal(signal.SIGKILL)
    process.wait()
    assert [*(clone.folder / ".snakemake/locks").glob("*")]
    assert clone.repro("rl") == ["rl"]
    provenance = json.loads((clone.folder / f"{RL}/seed0/provenance.json").read_text())
    assert provenance["tries"][0]["after_step"] == 0 < provenance["tries"][1]["after_step"]
    assert not [line for line in clone.run("dvc", "status", "rl").splitlines() if "rl:" in line]


def same_session(process: psutil.Process, session: int) -> bool:
    try:
        return os.getsid(process.pid) == session
    except ProcessLookupError:
        return False


def test_a_lock_that_two_branches_changed(origin: Clone, clone: Clone) -> None:
    """Either side is right to take: what it does not describe is made again."""
    clone.run("dvc", "pull")
    clone.planned()
    clone.run("git", "checkout", "--quiet", "-b", "theirs")
    clone.change({"study.name": "theirs"})
    clone.repro()
    clone.commit()
    clone.run("git", "checkout", "--quiet", "-b", "ours", "HEAD~1")
    clone.run("dvc", "checkout")
    clone.change({"study.name": "ours"})
    clone.repro()
    clone.commit()
    said = clone.run("git", "merge", "theirs", fails=True)
    assert "CONFLICT" in said and "dvc.lock" in said
    clone.run("git", "checkout", "--ours", "config/config.yaml")
    assert "dvc.lock" in clone.run("dvc", "status", fails=True)
    said = clone.run("python", "workflow/dvc/restore.py", fails=True)
    assert said.startswith("dvc status --json: ") and "dvc.lock" in said
    clone.run("git", "checkout", "--theirs", "dvc.lock")
    assert clone.repro() == ["report"]
    assert "up to date" in clone.run("dvc", "status")


# --- what DVC shows --------------------------------------------------------------------------------------------------


def test_metrics_params_plots_and_experiments(origin: Clone, clone: Clone) -> None:
    clone.run("dvc", "pull")
    clone.planned()
    shown = json.loads(clone.run("dvc", "metrics", "show", "--json"))
    (metrics,) = shown[""]["data"].values()
    assert metrics["data"] == json.loads((origin.folder / "results/tables/metrics.json").read_text())
    ran = clone.run("dvc", "exp", "run", "--name", "renamed", "--set-param", "config/config.yaml:study.name=other")
    assert re.findall(r"^Running stage '(\w+)'", ran, re.M) == ["report"]
    changed = json.loads(clone.run("dvc", "params", "diff", "--json"))
    assert changed["config/config.yaml"]["study.name"] == {"old": "smoke", "new": "other"}
    clone.run("dvc", "exp", "branch", "renamed", "other")
    assert "name: other" in clone.run("git", "show", "other:config/config.yaml")
    clone.run("dvc", "plots", "diff", "HEAD", "other", "--out", "plots")
    page = (clone.folder / "plots/index.html").read_text()
    assert "reinforce_plus_plus" in page and "pass@1 t=0.01" in page
