"""A job that is killed, stopped or hindered at any moment goes on as if nothing had happened."""

import functools
import json
import operator
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from stages.config import EvaluateRun, RLRun, SFTRun
from stages.files import sha256
from stages.training.checkpoint import State, sealed
from stages.training.stop import AGAIN
from tests.tries import KINDS, PLACES, Moment, forget, prepared, results, run_of, start, states_of

KILLS = {"sft": 20, "reinforce_plus_plus": 20, "grpo": 20, "evaluate": 8}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every kind of job leaves when nothing happens, and how many events its functions have."""
    folder = tmp_path_factory.mktemp("undisturbed")
    for kind in KINDS:
        weights = folder / "sft/results/weights/epoch2.safetensors"
        first = start(run_of(kind, data, folder / kind, weights), count=folder / f"{kind}.json")
        assert first.wait() == 0, first.text
        resumed = run_of(kind, data, folder / f"{kind} resumed", weights)
        assert start(resumed, stop_after=2).wait() == AGAIN
        assert start(resumed, count=folder / "resumed.json").wait() == 0
        counts = [json.loads((folder / f"{name}.json").read_text()) for name in (kind, "resumed")]
        # Where it resumes, there must be something to resume from.
        (folder / f"{kind}.json").write_text(json.dumps(counts[0] | {"begin": counts[1]["begin"]}))
    return folder


def again(kind: str, data: Path, undisturbed: Path, folder: Path) -> SFTRun | RLRun | EvaluateRun:
    return run_of(kind, data, folder, undisturbed / "sft/results/weights/epoch2.safetensors")


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_twenty_random_moments_the_bytes_are_the_same(
    kind: str, data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """A run is killed and tried again until it ends; then another, until there were twenty kills."""
    counts = {function: n for function, n in json.loads((undisturbed / f"{kind}.json").read_text()).items() if n}
    run = again(kind, data, undisturbed, tmp_path / "run")
    chance, kills, resumed = random.Random(kind), 0, 0
    functions = [function for function in PLACES.values() if function in counts]
    for i in range(10 * KILLS[kind]):
        forget(run)
        function = functions[i % len(functions)]
        moment = Moment(function, chance.randrange(1, counts[function])) if kills < KILLS[kind] else None
        one = start(run, moment)
        status = one.wait()
        assert status in (0, -signal.SIGKILL), one.text
        kills += status != 0
        resumed += "resumes after step" in one.text
        if status == 0:
            assert results(Path(run.out)) == results(undisturbed / kind / "results"), one.text
            shutil.rmtree(run.checkpoints, ignore_errors=True)
            if moment is None:
                break
    assert kills == KILLS[kind] and resumed >= kills / 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_signal_finishes_the_step_saves_and_says_again(
    number: signal.Signals, data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    run = again("grpo", data, undisturbed, tmp_path / "run")
    stopped = start(run, save_every=1000, stop_after=3, told=number)
    assert stopped.wait() == AGAIN
    assert "was told to stop; its state after step 3 is saved, and the same command goes on" in stopped.text
    assert not Path(run.out).exists()
    resumed = start(run, save_every=1000)
    assert resumed.wait() == 0
    assert "resumes after step 3" in resumed.text
    assert results(Path(run.out)) == results(undisturbed / "grpo/results")
    assert Path(run.out, "weights/epoch2.safetensors").stat().st_mode & 0o444 == 0o444  # a colleague may read it
    tries = json.loads(Path(run.out, "provenance.json").read_text())["tries"]
    assert [one["after_step"] for one in tries] == [0, 3]


def stopped_after(step: int, data: Path, undisturbed: Path, folder: Path) -> tuple[RLRun, Path]:
    """A run of Reinforce++ that was stopped, and the folder of its states."""
    run = again("reinforce_plus_plus", data, undisturbed, folder)
    assert isinstance(run, RLRun)
    assert start(run, stop_after=step).wait() == AGAIN
    return run, states_of(run)


def damage(what: str, states: Path) -> str:
    """Damage the last of two states; what the log must then say of it."""
    last = states / "step000003"
    (tensors,) = last.glob("*.distcp")
    if what == "state.json is cut":
        (last / "state.json").write_text((last / "state.json").read_text()[:50])
        return "step000003 is torn: state.json: "
    if what == "state.json is of another version":
        (last / "state.json").write_text('{"steps": 6}')
        return "step000003 is of another version: state.json: "
    if what == "state.json is changed":
        (last / "state.json").write_text((last / "state.json").read_text().replace('"last_epoch": ', '"last_epoch": 1'))
        return "step000003 is torn: state.json is not what was written"
    if what == "tensors are cut":
        size = tensors.stat().st_size
        os.truncate(tensors, size - 1)
        return f"has {size - 1} bytes and not {size}"
    if what == "tensors are changed":
        content = bytearray(tensors.read_bytes())
        content[-1000] ^= 1
        tensors.write_bytes(content)
        return f"step000003 is torn: {tensors.name} is not what was written"
    if what == "tensors are missing":
        tensors.unlink()
        return f"step000003 is torn: {tensors} is missing"
    assert what == "records are cut"
    size = (states / "records/responses.jsonl").stat().st_size
    os.truncate(states / "records/responses.jsonl", size - 1)
    return f"responses.jsonl has {size - 1} bytes and not {size}"


@pytest.mark.parametrize(
    "what",
    [
        "state.json is cut",
        "state.json is changed",
        "state.json is of another version",
        "tensors are cut",
        "tensors are changed",
        "tensors are missing",
        "records are cut",
    ],
)
def test_a_torn_state_is_named_and_the_one_before_it_is_used(
    what: str, data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    run, states = stopped_after(3, data, undisturbed, tmp_path / "run")
    assert sorted(path.name for path in states.glob("step*")) == ["step000002", "step000003"]
    said = damage(what, states)
    resumed = start(run)
    assert resumed.wait() == 0, resumed.text
    assert said in resumed.text and "resumes after step 2" in resumed.text
    assert results(Path(run.out)) == results(undisturbed / "reinforce_plus_plus/results")


def test_with_no_good_state_it_begins_again(data: Path, undisturbed: Path, tmp_path: Path) -> None:
    run, states = stopped_after(2, data, undisturbed, tmp_path / "run")
    for state in states.glob("step*/state.json"):
        state.write_text("")
    resumed = start(run)
    assert resumed.wait() == 0
    assert resumed.text.count("is torn") == 2 and "resumes" not in resumed.text
    assert "no state can be used, so the job begins anew" in resumed.text
    assert (states / "refused/step000002").is_dir()
    assert results(Path(run.out)) == results(undisturbed / "reinforce_plus_plus/results")


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (["run", "settings", "optimizer", "learning_rate"], 5.0),
        (["run", "seed"], 4),
        (["code"], "0123456789ab"),
        (["packages", "torch"], "1.0"),
        (["inputs", "train.jsonl"], "another hash"),
    ],
)
def test_a_state_of_something_else_is_refused_by_the_differing_key(
    keys: list[str], value: object, data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    keys = [str(data / key) if key == "train.jsonl" else key for key in keys]
    run, states = stopped_after(2, data, undisturbed, tmp_path / "run")
    for path in states.glob("step*/state.json"):
        state = json.loads(path.read_text())["state"]
        *parents, last = keys
        place = functools.reduce(operator.getitem, parents, state["identity"])
        assert place[last] != value
        before, place[last] = place[last], value
        path.write_text(sealed(State(**state)))
    resumed = start(run)
    assert resumed.wait() == 0
    assert f"step000002 is refused: {'.'.join(keys)} is {value!r} there and " in resumed.text
    assert "resumes" not in resumed.text
    assert results(Path(run.out)) == results(undisturbed / "reinforce_plus_plus/results")
    note, _ = json.loads(Path(run.out, "provenance.json").read_text())["tries"][-1]["notes"]
    assert repr(before) in note
    assert (states / "refused/records/responses.jsonl").is_file()  # nothing is lost


def test_what_is_put_aside_is_not_lost_beside_a_torn_state(data: Path, undisturbed: Path, tmp_path: Path) -> None:
    run, states = stopped_after(2, data, undisturbed, tmp_path / "run")
    (states / "step000002/state.json").write_text("")
    other = states / "step000001/state.json"
    state = json.loads(other.read_text())["state"]
    other.write_text(sealed(State(**(state | {"identity": state["identity"] | {"code": "another"}}))))
    resumed = start(run)
    assert resumed.wait() == 0 and "step000001 is refused: code is 'another'" in resumed.text
    assert {path.name for path in (states / "refused").iterdir()} == {"records", "step000001", "step000002"}
    assert (states / "refused/records/responses.jsonl").is_file()


def test_another_setting_begins_in_a_folder_of_its_own_and_says_why(
    data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    run, states = stopped_after(2, data, undisturbed, tmp_path / "run")
    other = start(run.model_copy(update={"seed": 4}), stop_after=1)
    assert other.wait() == AGAIN and "resumes" not in other.text
    assert f"{states / 'step000002'} is not used: run.seed is 3 there and 4 here" in other.text
    back = start(run)  # to the first setting, of which nothing is lost
    assert back.wait() == 0 and "resumes after step 2" in back.text
    assert results(Path(run.out)) == results(undisturbed / "reinforce_plus_plus/results")


def test_what_nobody_has_accepted_yet_is_published_again(data: Path, undisturbed: Path, tmp_path: Path) -> None:
    """The driver died while the training went on to its end; the next one removes the outputs and starts it again."""
    run = again("reinforce_plus_plus", data, undisturbed, tmp_path / "run")
    assert start(run).wait() == 0
    assert sorted(path.name for path in states_of(run).iterdir()) == ["records", "step000004"]
    forget(run)
    second = start(run)
    assert second.wait() == 0 and "resumes after step 4" in second.text
    assert results(Path(run.out)) == results(undisturbed / "reinforce_plus_plus/results")


def test_an_evaluation_forgets_the_states_of_its_training_and_no_others(
    data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    trained, states = stopped_after(2, data, undisturbed, tmp_path / "trained")
    done = start(trained.model_copy(update={"seed": 4}))
    assert done.wait() == 0
    run = again("evaluate", data, undisturbed, tmp_path / "run").model_copy(update={"trained": trained.checkpoints})
    evaluated = start(run)
    assert evaluated.wait() == 0
    assert states_of(trained) == states and (states / "step000002").is_dir()  # which is of another seed
    assert f"{states / 'step000002'} stays: an unfinished try of other settings" in evaluated.text
    assert not list(Path(run.checkpoints).iterdir())


def test_two_processes_do_not_train_the_same_run(data: Path, undisturbed: Path, tmp_path: Path) -> None:
    """The second waits a moment for the first, which may be saving its state, and then says who it is."""
    run, states = stopped_after(2, data, undisturbed, tmp_path / "run")
    lock = states.with_suffix(".lock")
    lock.write_text("process 1 on elsewhere")
    holder = subprocess.Popen(["flock", str(lock), "sleep", "5"])
    try:
        time.sleep(0.5)
        second = start(run, patience=1)
        assert second.wait() == 1
        assert "is in use by process 1 on elsewhere: the same job runs already" in second.text
        waiting = start(run)  # for longer than the holder lives
        assert waiting.wait() == 0, waiting.text
    finally:
        holder.kill()
    assert results(Path(run.out)) == results(undisturbed / "reinforce_plus_plus/results")


def mounted(folder: Path, kilobytes: int) -> None:
    folder.mkdir()
    asked = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    if subprocess.run(asked, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")


@pytest.mark.parametrize(("full_at", "room"), [("a record", 0), ("the weights", 1_000), ("the state", 5_000)])
def test_a_full_disk_is_told_and_the_last_good_state_stays(
    full_at: str, room: int, data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """Weights take 3 MB, a state 8 MB: weights and twice as much of AdamW's. The last step writes all three."""
    small = tmp_path / "small"
    mounted(small, 80_000)
    try:
        run = again("reinforce_plus_plus", data, undisturbed, small / "run")
        assert isinstance(run, RLRun)
        assert start(run, stop_after=3).wait() == AGAIN
        states = states_of(run)
        used = shutil.disk_usage(small).used // 1024
        subprocess.run(["mount", "-o", f"remount,size={used + room}k", small], check=True)
        before = {path: sha256(path) for path in states.glob("step*/*")}
        hindered = start(run, logs=tmp_path)
        assert hindered.wait() == 1, hindered.text
        assert "no space left on device (make room, then start again)" in hindered.text, hindered.text
        assert "Traceback" not in hindered.text, hindered.text
        assert {path: sha256(path) for path in states.glob("step*/*")} == before
        assert not list(states.glob(".*"))
        subprocess.run(["mount", "-o", "remount,size=80000k", small], check=True)
        resumed = start(run)
        assert resumed.wait() == 0, resumed.text
        assert "resumes after step 3" in resumed.text
        assert results(Path(run.out)) == results(undisturbed / "reinforce_plus_plus/results")
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_disk_that_is_full_when_results_are_published(data: Path, undisturbed: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    mounted(small, 2_000)  # less than the weights, which cannot be links on another file system
    try:
        there = {"out": str(small / "results"), "weights": str(small / "results/weights")}
        run = again("sft", data, undisturbed, tmp_path / "run").model_copy(update=there)
        hindered = start(run)
        assert hindered.wait() == 1
        assert "no space left on device (make room, then start again)" in hindered.text
        assert "Traceback" not in hindered.text
        assert not [path for path in small.rglob("*") if path.is_file()]
        subprocess.run(["mount", "-o", "remount,size=80000k", small], check=True)
        resumed = start(run)
        assert resumed.wait() == 0 and "resumes after step 4" in resumed.text
        assert results(Path(run.out)) == results(undisturbed / "sft/results")
    finally:
        subprocess.run(["umount", small], check=True)


def test_read_only_results_are_told_before_anything_is_computed(data: Path, undisturbed: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    mounted(small, 1_000)
    try:
        subprocess.run(["mount", "-o", "remount,ro", small], check=True)
        run = again("sft", data, undisturbed, tmp_path / "run")
        one = start(run.model_copy(update={"out": str(small / "results/sft")}))
        assert one.wait() == 1
        assert f"{small}: read-only file system; the results are to be in {small}/results/sft" in one.text
    finally:
        subprocess.run(["umount", small], check=True)
