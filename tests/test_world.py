"""Several processes compute what one would: records, losses, weights; and what they save, any number goes on from."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from pandas.testing import assert_frame_equal
from safetensors.torch import load_file
from torch.testing import assert_close

from stages.config import RLRun, SFTRun
from stages.model.vlm import load
from stages.records import read
from stages.training.stop import AGAIN
from stages.training.world import Share, World
from tests.conftest import PROMPT
from tests.tries import COMPUTE, MODELS, prepared, run_of, states_of, together

CLOSE = 1e-5


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("data"))


def run(kind: str, data: Path, folder: Path) -> SFTRun | RLRun:
    found = run_of(kind, data, folder)
    assert isinstance(found, SFTRun | RLRun)
    return found


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process leaves."""
    folder = tmp_path_factory.mktemp("alone")
    for kind in ("sft", "grpo", "reinforce_plus_plus"):
        assert together(run(kind, data, folder / kind), 1, sharded=False) == [0]
    return folder


def assert_same(found: Path, expected: Path) -> None:
    """Equal rows in equal order, but for the rounding of sums; equal weights likewise."""
    updates, wanted = read(found / "updates.jsonl"), read(expected / "updates.jsonl")
    gap = ["sampler_gap", "sampler_gap_max", "sampler_outside"]  # are nothing but rounding
    assert_frame_equal(updates.drop(columns=gap), wanted.drop(columns=gap), rtol=0, atol=CLOSE)
    assert (updates.tokens == wanted.tokens).all()  # counts add up exactly
    if (expected / "responses.jsonl").exists():
        assert (found / "responses.jsonl").read_bytes() == (expected / "responses.jsonl").read_bytes()
    for epoch in (1, 2):
        weights, others = (load_file(f / f"weights/epoch{epoch}.safetensors") for f in (found, expected))
        assert weights.keys() == others.keys()
        for name, weight in weights.items():
            assert_close(weight, others[name], rtol=0, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("sharded", [False, True], ids=["ddp", "fsdp2"])
@pytest.mark.parametrize("kind", ["sft", "grpo", "reinforce_plus_plus"])
def test_two_processes_compute_what_one_does(kind: str, sharded: bool, data: Path, alone: Path, tmp_path: Path) -> None:
    two = run(kind, data, tmp_path / "two")
    assert together(two, 2, sharded=sharded) == [0, 0]
    assert read(alone / kind / "results/updates.jsonl").grad_norm.min() > 1e-3  # something is learnt
    assert_same(Path(two.out), alone / kind / "results")


@pytest.mark.parametrize("sharded", [False, True], ids=["copies", "parts"])
def test_exact_weights_of_two_processes_are_those_of_one(sharded: bool, data: Path, tmp_path: Path) -> None:
    """Passes in bfloat16, weights in float32 (FSDP2, either way); what two saved, one goes on from."""
    rounded = {"compute": COMPUTE.model_copy(update={"dtype": "bfloat16"})}
    one, two = (run("sft", data, tmp_path / name).model_copy(update=rounded) for name in ("one", "two"))
    assert together(one, 1, sharded=False) == [0]
    assert together(two, 2, sharded=sharded, stop_after=2) == [AGAIN, AGAIN]
    assert together(two, 1, sharded=False) == [0]
    found, wanted = read(Path(two.out) / "updates.jsonl"), read(Path(one.out) / "updates.jsonl")
    assert_frame_equal(found, wanted, rtol=0.02, atol=0)
    weights, others = (load_file(Path(f.out, "weights/epoch2.safetensors")) for f in (two, one))
    far = sum((weight - others[name]).float().norm() ** 2 for name, weight in weights.items()) ** 0.5
    began = load(MODELS / "qwen2_5_vl_tiny", rounded["compute"], PROMPT).model.state_dict()
    moved = sum((weight - began[name]).float().norm() ** 2 for name, weight in weights.items()) ** 0.5
    assert far < 0.1 * moved


@pytest.mark.parametrize("processes", [1, 4])
def test_what_two_processes_saved_any_number_goes_on_from(
    processes: int, data: Path, alone: Path, tmp_path: Path
) -> None:
    """Weights and AdamW's state in two parts become one whole, or four parts; sharded or not."""
    job = run("grpo", data, tmp_path / "job")
    assert together(job, 2, sharded=True, stop_after=2) == [AGAIN, AGAIN]
    assert together(job, processes, sharded=processes == 4) == [0] * processes
    assert_same(Path(job.out), alone / "grpo/results")


def test_one_process_that_is_told_to_stop_stops_all(data: Path, alone: Path, tmp_path: Path) -> None:
    """Slurm's signal reaches each process at another moment; all leave after the same step."""
    job = run("reinforce_plus_plus", data, tmp_path / "job")
    assert together(job, 2, sharded=False, stop_after=2, save_every=100, stopped_rank=1) == [AGAIN, AGAIN]
    (state,) = states_of(job).glob("step*")
    assert state.name == "step000002"
    assert together(job, 2, sharded=False) == [0, 0]
    assert_same(Path(job.out), alone / "reinforce_plus_plus/results")


# --- dealing ---------------------------------------------------------------------------------------------------------


def test_every_update_is_dealt_in_equal_parts() -> None:
    """By hand: 8 items in updates of 4, two processes."""
    share = World(1, 2).share(8, block=4)
    assert share.dealt == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert share.of("abcdefgh") == ["c", "d", "g", "h"]
    assert share.times(2).dealt[0] == [0, 1, 2, 3, 8, 9, 10, 11]


@pytest.mark.parametrize(("items", "block"), [(8, 3), (7, 4)])
def test_what_cannot_be_dealt_is_an_error(items: int, block: int) -> None:
    with pytest.raises(ValueError, match=f"{items} items in blocks of {block} cannot be dealt to 2 processes"):
        World(0, 2).share(items, block)


def test_one_process_has_everything_however_it_is_cut() -> None:
    assert World().share(7, block=3).of(range(7)) == list(range(7))


class Recorded(World):
    """A world whose other processes said what is written here."""

    said: list[Any]

    def gather(self, mine: Any) -> list[Any]:
        return self.said


def test_rows_and_tensors_come_back_in_the_batchs_order() -> None:
    world = Recorded(0, 2)
    share = Share(world, [[0, 1, 4, 5], [2, 3, 6, 7]])
    object.__setattr__(world, "said", [list("abef"), list("cdgh")])
    assert "".join(share.whole(list("abef"))) == "abcdefgh"
    # The responses of the second process are longer.
    object.__setattr__(
        world, "said", [torch.tensor([[0.0], [1], [4], [5]]), torch.tensor([[2.0, 9], [3, 9], [6, 9], [7, 9]])]
    )
    whole = share.whole_tensor(torch.empty(4, 1))
    assert whole[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert whole[:, 1].tolist() == [0, 0, 9, 9, 0, 0, 9, 9]
    assert share.mine(whole)[:, 0].tolist() == [0, 1, 4, 5]


def test_records_have_every_row_once(data: Path, alone: Path) -> None:
    rows = read(alone / "grpo/results/responses.jsonl")
    assert not rows.duplicated(["generation_step", "problem", "sample"]).any()
    assert isinstance(rows, pd.DataFrame) and len(rows) == 2 * 16 * 2
