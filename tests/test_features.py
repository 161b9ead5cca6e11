"""Kept features: what is found again is what was computed, and no more is kept than is allowed."""

import os
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from stages.config import Compute, PromptSettings
from stages.data.problem import Problem
from stages.model.features import FeatureLimits, Features, maker_digest, picture_digest
from stages.model.vlm import VLM, load
from tests.conftest import PROMPT
from tests.layouts import write_tiny
from tests.test_sampler import COMPUTE, MODELS

TINY = MODELS / "qwen2_vl_tiny"
MB = 10**6


def limits(folder: Path, memory_mb: int = 100, disk_mb: int = 100) -> FeatureLimits:
    return FeatureLimits(memory_mb=memory_mb, disk_mb=disk_mb, folder=folder / "features")


@pytest.fixture
def problems(tmp_path: Path) -> list[Problem]:
    """Four problems on three pictures."""
    for i, size in enumerate([(64, 64), (100, 40), (48, 48)]):
        noise = torch.rand(size[1], size[0], 3, generator=torch.Generator().manual_seed(i))
        Image.fromarray((noise * 255).byte().numpy()).save(tmp_path / f"{i}.png")
    return [Problem("What is x?", "7", "", f"p{i}", tmp_path / f"{i % 3}.png") for i in range(4)]


class Counted:
    """A vision tower whose calls are counted."""

    def __init__(self, vlm: VLM) -> None:
        self.calls = 0
        vlm.model.model.visual.register_forward_hook(self)

    def __call__(self, *_: Any) -> None:
        self.calls += 1


def test_a_second_start_looks_at_nothing(problems: list[Problem], tmp_path: Path) -> None:
    """And has, bit for bit, what is made without any disk."""
    plain = load(TINY, COMPUTE, PROMPT).prompts(problems)
    starts = []
    for looked in (3, 0):
        vlm = load(TINY, COMPUTE, PROMPT, limits(tmp_path))
        counted = Counted(vlm)
        starts.append(vlm.prompts(problems))
        vlm.prompts(problems)
        assert counted.calls == looked
    for found in starts:
        for prompt, other in zip(found, plain, strict=True):
            for name, value in vars(prompt).items():
                same = getattr(other, name)
                assert torch.equal(value, same) if isinstance(value, Tensor) else value == same, name
    assert len(list((tmp_path / "features").iterdir())) == 3


def test_a_picture_of_two_problems_is_looked_at_once(problems: list[Problem], tmp_path: Path) -> None:
    vlm = load(TINY, COMPUTE, PROMPT, limits(tmp_path, disk_mb=0))
    counted = Counted(vlm)
    together = vlm.prompts(problems)
    assert counted.calls == 3 and together[0].features is together[3].features
    vlm.prompts([Problem("And y?", "7", "", "later", problems[1].image)])
    assert counted.calls == 3


def test_all_levels_of_qwen3_are_kept(problems: list[Problem], tmp_path: Path) -> None:
    model = write_tiny(tmp_path / "model", "qwen3_vl")
    first, second = (load(model, COMPUTE, PROMPT, limits(tmp_path)).prompts(problems)[0].features for _ in range(2))
    assert first.shape[1] == 3 * 64 and torch.equal(first, second)


def test_bfloat16_is_kept_bit_for_bit(problems: list[Problem], tmp_path: Path) -> None:
    compute = COMPUTE.model_copy(update={"dtype": "bfloat16"})
    first, second = (load(TINY, compute, PROMPT, limits(tmp_path)).prompts(problems)[0].features for _ in range(2))
    assert first.dtype == torch.bfloat16 and torch.equal(first, second)


# --- what features depend on ------------------------------------------------------------------------------------------


def other_weight(vlm: VLM) -> None:
    with torch.no_grad():
        next(vlm.model.model.visual.parameters()).view(-1)[0] += 1e-6


def other_connector(vlm: VLM) -> None:
    with torch.no_grad():
        vlm.model.model.visual.merger.mlp[2].bias[0] += 1e-6


def other_language_model(vlm: VLM) -> None:
    with torch.no_grad():
        vlm.model.get_input_embeddings().weight += 1.0


@pytest.mark.parametrize(
    ("change", "differs"), [(other_weight, True), (other_connector, True), (other_language_model, False)]
)
def test_other_vision_weights_are_another_maker(change: Callable[[VLM], None], differs: bool) -> None:
    vlm = load(TINY, COMPUTE, PROMPT)
    before = maker_digest(vlm.model, vlm.processor.image_processor, COMPUTE)
    change(vlm)
    assert (maker_digest(vlm.model, vlm.processor.image_processor, COMPUTE) != before) == differs


OTHERS: list[tuple[PromptSettings, Compute]] = [
    (PROMPT.model_copy(update={"min_pixels": 2 * PROMPT.min_pixels}), COMPUTE),
    (PROMPT.model_copy(update={"max_pixels": PROMPT.max_pixels // 2}), COMPUTE),
    (PROMPT, COMPUTE.model_copy(update={"dtype": "bfloat16"})),
    (PROMPT, COMPUTE.model_copy(update={"threads": 2})),
]


@pytest.mark.parametrize(("prompt", "compute"), OTHERS, ids=["min_pixels", "max_pixels", "dtype", "threads"])
def test_another_budget_or_type_finds_no_file(
    prompt: PromptSettings, compute: Compute, problems: list[Problem], tmp_path: Path
) -> None:
    for settings, looked in (((COMPUTE, PROMPT), 3), ((compute, prompt), 3), ((COMPUTE, PROMPT), 0)):
        vlm = load(TINY, *settings, limits(tmp_path))
        counted = Counted(vlm)
        vlm.prompts(problems)
        assert counted.calls == looked


def test_a_picture_is_its_pixels(tmp_path: Path) -> None:
    """Not its file; and another shape of the same bytes is another picture."""
    picture = Image.frombytes("RGB", (4, 2), bytes(range(24)))
    picture.save(tmp_path / "a.png")
    picture.save(tmp_path / "b.bmp")
    digests = {picture_digest(Image.open(tmp_path / name).convert("RGB")) for name in ("a.png", "b.bmp")}
    assert digests == {picture_digest(picture)}
    assert picture_digest(Image.frombytes("RGB", (2, 4), bytes(range(24)))) not in digests
    assert picture_digest(Image.frombytes("RGB", (4, 2), bytes([1, *range(1, 24)]))) not in digests


# --- limits -----------------------------------------------------------------------------------------------------------


def a_tenth(value: int) -> Tensor:
    """Features of 0.1 MB."""
    return torch.full((100, 250), float(value))


def fill(features: Features, pictures: list[int]) -> list[int]:
    """Ask for pictures one after the other; those that had to be computed."""
    computed = []

    def compute(picture: int) -> Tensor:
        computed.append(picture)
        return a_tenth(picture)

    for picture in pictures:
        found = features.find(str(picture), lambda picture=picture: compute(picture))  # type: ignore[misc]
        assert torch.equal(found, a_tenth(picture))
    return computed


def test_memory_gives_up_what_was_not_used_for_longest(tmp_path: Path) -> None:
    """Ten fit: 0 is used again, so that 1 goes for the eleventh."""
    features = Features(limits(tmp_path, memory_mb=1, disk_mb=0), str)
    assert fill(features, [*range(10), 0, 10]) == list(range(11))
    assert [i for i in range(11) if str(i) not in features] == [1]
    assert fill(features, [0, 10, 2]) == []
    assert fill(features, [1]) == [1]
    assert not (tmp_path / "features").exists()


def test_memory_of_nothing_computes_again(problems: list[Problem], tmp_path: Path) -> None:
    vlm = load(TINY, COMPUTE, PROMPT, limits(tmp_path, memory_mb=0, disk_mb=0))
    counted = Counted(vlm)
    first, second = vlm.prompts(problems), vlm.prompts(problems)
    assert counted.calls > 3 and not vlm._prompts
    assert all(torch.equal(a.features, b.features) for a, b in zip(first, second, strict=True))


def test_a_copy_of_the_model_shares_what_is_kept(problems: list[Problem], tmp_path: Path) -> None:
    """Also what was given up: no prompt keeps features alive for which there is no room."""
    vlm = load(TINY, COMPUTE, PROMPT, limits(tmp_path, memory_mb=1, disk_mb=0))
    own = vlm.with_own_weights()
    assert own.prompts(problems)[0].features is vlm.prompts(problems)[0].features
    assert set(vlm._prompts) == set(problems)
    own._features.keep("large", torch.zeros(MB // 4))
    own.prompts(problems[:1])
    assert set(vlm._prompts) == {problems[0], problems[3]}, "which show the same picture"


def sizes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def test_the_disk_gives_up_what_was_not_used_for_longest(tmp_path: Path) -> None:
    def features() -> Features:
        return Features(limits(tmp_path, memory_mb=0, disk_mb=1), lambda: "maker")

    kept = features()
    fill(kept, [0])
    for picture in range(1, 40):
        time.sleep(0.002)  # file systems that count time in milliseconds
        assert fill(kept, [picture, 0]) == [picture]
        assert sizes(tmp_path / "features") <= MB
    assert fill(features(), [0, 39, 38]) == []
    assert fill(features(), [1]) == [1]
    assert 6 <= len(list((tmp_path / "features").iterdir())) <= 8


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    (tmp_path / "features").mkdir()
    theirs = tmp_path / "features" / "notes.txt"
    theirs.write_bytes(bytes(2 * MB))
    os.utime(theirs, (0, 0))
    left = tmp_path / "features" / "killed.partial"
    left.write_bytes(bytes(MB // 2))
    os.utime(left, (0, 0))
    fill(Features(limits(tmp_path, memory_mb=0, disk_mb=1), lambda: "maker"), list(range(8)))
    assert theirs.exists() and not left.exists()


def test_features_larger_than_the_limit_are_not_written(tmp_path: Path) -> None:
    features = Features(limits(tmp_path, memory_mb=0, disk_mb=1), lambda: "maker")
    found = features.find("large", lambda: torch.zeros(300, 1000))
    assert found.shape == (300, 1000) and not list((tmp_path / "features").iterdir())


# --- damage -----------------------------------------------------------------------------------------------------------


def damages(content: bytes) -> list[bytes]:
    """Cut short at many lengths, and with one bit turned at many places, header included."""
    middle = range(0, len(content), len(content) // 50)
    places = [*range(200), *middle, *range(len(content) - 20, len(content))]
    cut = [content[:length] for length in places]
    turned = [content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :] for i in places]
    return [*cut, *turned, content + b"\0", b"", b"\xff" * len(content)]


def test_a_damaged_file_is_computed_again(tmp_path: Path) -> None:
    def features() -> Features:
        return Features(limits(tmp_path, memory_mb=0), lambda: "maker")

    fill(features(), [5])
    (file,) = (tmp_path / "features").iterdir()
    whole = file.read_bytes()
    assert fill(features(), [5]) == []
    for damaged in damages(whole):
        file.write_bytes(damaged)
        assert fill(features(), [5]) == [5]
        assert file.read_bytes() == whole, "and is whole again"


def test_a_file_under_another_name_is_not_trusted(tmp_path: Path) -> None:
    features = Features(limits(tmp_path, memory_mb=0), lambda: "maker")
    fill(features, [1])
    (one,) = (tmp_path / "features").iterdir()
    fill(features, [2])
    (two,) = set((tmp_path / "features").iterdir()) - {one}
    two.write_bytes(one.read_bytes())
    assert fill(features, [2]) == [2]


# --- two processes ----------------------------------------------------------------------------------------------------


def work(folder: Path, order: list[int], barrier: Any, results: Any) -> None:
    features = Features(limits(folder, memory_mb=0, disk_mb=1), lambda: "maker")
    barrier.wait()
    largest = 0
    for picture in order:
        fill(features, [picture])
        largest = max(largest, sizes_now(folder / "features"))
    results.put(largest)


def sizes_now(folder: Path) -> int:
    """Of files that another process may be removing."""
    total = 0
    for file in folder.iterdir():
        try:
            total += file.stat().st_size
        except FileNotFoundError:
            continue
    return total


@pytest.mark.parametrize("different", [False, True])
def test_two_processes_share_a_folder(different: bool, tmp_path: Path) -> None:
    """A folder for nine of thirty pictures, in the same order and in opposite ones."""
    context = get_context("fork")
    barrier, results = context.Barrier(2), context.Queue()
    orders = [list(range(30)) * 3, list(range(30))[:: -1 if different else 1] * 3]
    both = [context.Process(target=work, args=(tmp_path, order, barrier, results)) for order in orders]
    for process in both:
        process.start()
    largest = [results.get(timeout=60) for _ in both]
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert max(largest) <= 1.2 * MB
    assert not list((tmp_path / "features").glob("*.partial"))
    assert sizes(tmp_path / "features") <= MB
