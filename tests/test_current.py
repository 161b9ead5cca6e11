"""Results that say themselves what they are of."""

import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages.config import Study, load_study
from stages.provenance import made_by
from stages.sources import results_digest
from workflow import current

Write = Callable[[dict[str, Any]], Path]
RUN = Path("results/rl/given/text/grpo/seed1/run.json")
OTHERS = Path("results/sft/given/text/sft/seed1/run.json")


@pytest.fixture
def studies(raw_study: dict[str, Any], write_study: Write) -> tuple[Study, Study]:
    """A study whose results are there, and the same with another learning rate of RL."""
    raw_study["study"] |= {"models": ["given"], "datasets": ["text"], "methods": ["sft", "grpo"], "skip": []}
    study = load_study(write_study(raw_study))
    raw_study["rl"]["grpo"]["optimizer"] = raw_study["rl"]["grpo"]["optimizer"] | {"learning_rate": 0.5}
    other = load_study(write_study(raw_study))
    for _, path, text in current.expected(study, study):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return study, other


def test_what_is_of_the_study_stays(studies: tuple[Study, Study]) -> None:
    study, _ = studies
    time = RUN.stat().st_mtime_ns
    assert current.set_stale_aside(study, study) == {}
    assert RUN.stat().st_mtime_ns == time


def test_what_is_of_other_settings_goes_aside_and_comes_back(studies: tuple[Study, Study]) -> None:
    study, other = studies
    text, time = RUN.read_text(), RUN.stat().st_mtime_ns
    assert current.set_stale_aside(other, study) == {"rl": 2, "report": 1}  # two seeds; the page tells the settings
    assert not RUN.exists() and OTHERS.exists()
    assert current.set_stale_aside(other, study) == {"rl": 2, "report": 1}
    assert current.set_stale_aside(study, study) == {}
    assert RUN.read_text() == text and RUN.stat().st_mtime_ns == time


def test_what_was_made_again_is_not_taken_for_what_was_there_before(studies: tuple[Study, Study]) -> None:
    study, other = studies
    current.set_stale_aside(other, study)
    RUN.write_text({path: text for _, path, text in current.expected(other, study)}[RUN])  # it ran
    assert current.set_stale_aside(other, study)["rl"] == 1  # the other seed
    current.set_stale_aside(study, study)
    assert not RUN.exists()  # the results are the other study's


def test_results_of_other_code_are_not_current(studies: tuple[Study, Study]) -> None:
    study, _ = studies
    python = platform.python_version()
    told = {"made_by": {"module": "stages.rl.train", "code": results_digest("stages.rl.train")}, "python": python}
    RUN.with_name("provenance.json").write_text(json.dumps(told))
    assert current.set_stale_aside(study, study) == {}
    told["made_by"]["code"] = "0123456789ab"  # type: ignore[index]
    RUN.with_name("provenance.json").write_text(json.dumps(told))
    assert current.set_stale_aside(study, study) == {"rl": 1}
    # Another Python may print the same code otherwise, so its digest says nothing.
    told["python"] = "3.99.1"
    RUN.with_name("provenance.json").write_text(json.dumps(told))
    assert current.set_stale_aside(study, study) == {}
    assert RUN.is_file()
    RUN.with_name("provenance.json").write_text("{")  # cut short: DVC and stages.verify name it
    assert current.set_stale_aside(study, study) == {}


def test_a_test_is_no_stage() -> None:
    assert made_by() == {}
