"""Real problems as somebody else wrote them; extra, where the shared data lies beside the project."""

from pathlib import Path

import pytest

from stages.config import Compute, JsonlData
from stages.data.prepare import prepare
from stages.data.problem import read_problems
from stages.model.vlm import load

ROOT = Path(__file__).parent.parent
REDRAWN = ROOT.parent / "shared" / "data" / "geometry3k_redrawn" / "problems.jsonl"

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not REDRAWN.is_file(), reason="the shared data is not beside the project"),
]


def test_geometry3k_is_prepared_and_fits_the_tiny_model(tmp_path: Path) -> None:
    settings = JsonlData(
        source="jsonl",
        train=f"{REDRAWN}[:300]",
        validation=f"{REDRAWN}[300:350]",
        test=f"{REDRAWN}[350:]",
        epochs=1,
    )
    prepare(settings, tmp_path)
    splits = {split: read_problems(tmp_path / f"{split}.jsonl") for split in ("train", "validation", "test")}
    assert [len(problems) for problems in splits.values()] == [300, 50, 56]
    problem = splits["train"][0]
    assert problem.id == "geometry3k_2401" and problem.answer == "60" and not problem.question.startswith("<image>")
    assert problem.picture().mode == "RGB"

    compute = Compute(device="cpu", dtype="float32", threads=1)
    vlm = load(ROOT / "models" / "qwen2_5_vl_tiny", compute)
    prompts = vlm.prompts(splits["test"])
    grids = {tuple(prompt.grid_thw.tolist()) for prompt in prompts}
    assert len(grids) > 3, "pictures of many shapes in one batch"
    for prompt in prompts:
        image_tokens = (prompt.token_ids == vlm.model.config.image_token_id).sum()
        assert image_tokens == len(prompt.features) == prompt.grid_thw.prod() // 4
