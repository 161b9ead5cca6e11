"""Figures show their tables, the tables are the scores', and nothing written overlaps, for studies of any shape."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from stages.config import FiguresRun
from stages.report import figures
from stages.report.cell import Cell, read_table
from stages.report.figures import FIGURES
from stages.report.names import LABELS
from stages.report.style import INK, marked_places, styles
from tests.scores import SETTINGS, WORDS, score_tables, write_scores

PAPER = {"vanilla": "vanilla", "sft": "sft", "rl": "rl"}
SEVERAL = PAPER | {"grpo": "rl", "a_method_with_a_name_of_forty_characters": "rl", "theirs": "other"}
LONG = "somebodys_vision_language_model_forty_ch"
SHAPES: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "the paper's": (PAPER, {"seeds": 3, "epochs": range(2, 31, 2), "steps": 150, "settings": {**SETTINGS, "t=0.6": 1}}),
    "several methods": (SEVERAL, {"seeds": 5, "steps": 30, "cell": (LONG, "a_data_set_with_a_long_name_too")}),
    "one seed, one epoch, one step": (PAPER, {"seeds": 1, "epochs": [1], "steps": 1}),
    "only the base model": ({"vanilla": "vanilla"}, {"seeds": 1}),
    "only SFT": ({"sft": "sft"}, {"splits": ["test"]}),
    "no SFT, one split, one setting": ({"vanilla": "vanilla", "rl": "rl"}, {"splits": ["test"], "settings": {"a": 1}}),
    "no base model": ({"sft": "sft", "rl": "rl"}, {"words": WORDS[:1], "types": [""]}),
    "four settings": (PAPER, {"settings": {**SETTINGS, "pass@16 t=1.0 top_p=0.95": 16, "pass@1 t=0.6": 1}}),
    "five settings": (
        PAPER,
        {"settings": dict.fromkeys(["pass@1 t=1.0", "a", "b", "c", "a setting of 40 letters"], 1)},
    ),
    "fifteen words, many types": (
        {"rl": "rl"},
        {"words": [f"re-examine{i}" for i in range(15)], "types": list("abcdefghijkl")},
    ),
    "no words": (PAPER, {"words": []}),
}


def drawn(kind: str, tables: dict[str, pd.DataFrame], methods: dict[str, str], **wanted: Any) -> Figure:
    """A figure of score tables."""
    return figures.picture(kind, FIGURES[kind].table(Cell(tables, **wanted)), styles(methods, LABELS), "A heading")


def panel(figure: Figure, title: str) -> Axes:
    return next(ax for ax in figure.axes if ax.get_title() == title)


# --- the look --------------------------------------------------------------------------------------------------------


def written(figure: Figure) -> list[Text]:
    """Every text that is painted: matplotlib has more, such as the labels of ticks outside an axis."""
    found: list[Text] = []
    paint = Text.draw

    def remember(text: Text, *arguments: Any, **more: Any) -> None:
        found.append(text)
        paint(text, *arguments, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", remember)
        FigureCanvasAgg(figure).draw()  # type: ignore[no-untyped-call]
    return [text for text in found if text.get_visible() and text.get_text().strip()]


def overlaps(figure: Figure) -> Iterator[str]:
    """Texts that meet another, or leave the canvas; half a pixel does not count."""
    places = [(text.get_text(), text.get_window_extent().padded(-0.5)) for text in written(figure)]
    yield from (f"{a} over {b}" for (a, x), (b, y) in itertools.combinations(places, 2) if x.overlaps(y))
    width, height = figure.bbox.size
    yield from (
        f"{text} leaves the canvas"
        for text, box in places
        if box.x0 < 0 or box.y0 < 0 or box.x1 > width or box.y1 > height
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_no_text_overlaps_another_or_leaves_the_canvas(shape: str) -> None:
    methods, more = SHAPES[shape]
    tables = score_tables(methods, **more)
    found = {kind: list(overlaps(drawn(kind, tables, methods))) for kind in FIGURES}
    assert found == {kind: [] for kind in FIGURES}


def test_an_overlap_would_be_noticed() -> None:
    figure = Figure()
    figure.text(0.5, 0.5, "one")
    figure.text(0.5, 0.5, "two")
    figure.text(0.98, 0.2, "three")
    assert list(overlaps(figure)) == ["one over two", "three leaves the canvas"]


def test_colours_are_the_papers_and_never_alone() -> None:
    def hue(colour: str) -> str:
        return max(("red", colour[1:3]), ("green", colour[3:5]), ("blue", colour[5:7]), key=lambda part: part[1])[0]

    found = styles({f"{kind}{i}": kind for kind in ("vanilla", "sft", "rl") for i in range(3)}, {})
    assert {name.rstrip("012"): hue(style.colour) for name, style in found.items()} == {
        "vanilla": "green",
        "sft": "blue",
        "rl": "red",
    }
    assert {name.rstrip("012"): style.line for name, style in found.items()} == {"vanilla": "--", "sft": "-", "rl": "-"}
    trained = [style for name, style in found.items() if not name.startswith("vanilla")]
    assert len({style.marker for style in trained}) == len({style.colour for style in trained}) == len(trained)
    many = styles({f"rl{i}": "rl" for i in range(12)}, {}).values()
    assert len({(style.colour, style.marker) for style in many}) == 12


@pytest.mark.parametrize("kind", FIGURES)
def test_an_empty_table_says_what_is_missing(kind: str) -> None:
    said = written(figures.picture(kind, pd.DataFrame(), styles(PAPER, LABELS), "Heading"))
    assert next(text.get_text() for text in said).endswith(" draw.")


def test_a_series_without_any_value_says_so() -> None:
    tables = score_tables(PAPER)
    tables["updates"]["entropy"] = np.nan
    tables["reflection"]["reflection_ratio"] = np.nan
    for kind in ("health", "training", "reflection", "scatter"):
        figure = drawn(kind, tables, PAPER)
        assert "no values" in [text.get_text() for text in written(figure)]
        assert not list(overlaps(figure))


# --- what is drawn ---------------------------------------------------------------------------------------------------


def test_lines_are_means_and_bands_one_deviation_over_seeds() -> None:
    tables = score_tables(PAPER, seeds=3)
    ax = panel(drawn("training", tables, PAPER), "Response length")
    lengths = tables["responses"]["length"].to_numpy().reshape(3, 6)  # [seed, generation step]
    (line,) = ax.get_lines()
    assert line.get_xdata() == pytest.approx(range(1, 7))
    assert line.get_ydata() == pytest.approx([sum(column) / 3 for column in lengths.T])
    (band,) = ax.collections
    edge = band.get_paths()[0].vertices
    for step, column in enumerate(lengths.T, start=1):
        deviation = (sum((value - sum(column) / 3) ** 2 for value in column) / 2) ** 0.5
        heights = np.asarray(edge)[np.asarray(edge)[:, 0] == step][:, 1]
        assert heights.max() - heights.min() == pytest.approx(2 * deviation)


def test_one_seed_has_no_band() -> None:
    assert not panel(drawn("training", score_tables(PAPER, seeds=1), PAPER), "Response length").collections


def test_there_is_a_gap_where_no_seed_has_a_value() -> None:
    ax = panel(drawn("training", score_tables(PAPER), PAPER), "Correct ratio")
    with_word, without = (np.asarray(line.get_ydata(), float) for line in ax.get_lines())
    assert np.isnan(with_word).tolist() == [False, False, True, False, False, True]  # every third step, as written
    assert without.tolist() == [0.5] * 6
    assert [line.get_linestyle() for line in ax.get_lines()] == ["-", ":"]


def test_a_value_between_two_gaps_is_seen() -> None:
    assert marked_places([False, True, False, True, True], sparse=True) == [1]
    assert marked_places([True, False, True], sparse=False) == [0, 2]
    assert len(marked_places([True] * 150)) == 8


def test_curves_begin_at_their_seeds_base_model_which_is_dashed() -> None:
    methods = {"vanilla": "vanilla", "rl": "rl"}
    tables = score_tables(methods, seeds=2, splits=["test"], settings={"greedy": 1})
    accuracy = tables["accuracy"]
    by_run = accuracy.set_index(["method", "seed", "epoch"])["accuracy"]
    tables["accuracy"] = accuracy[(accuracy["method"] != "rl") | (accuracy["seed"] == 1)]
    base, curve = panel(drawn("accuracy", tables, methods), "Test, greedy").get_lines()
    assert curve.get_xdata() == pytest.approx([0, 2, 4])
    assert curve.get_ydata() == pytest.approx([by_run["vanilla", 1, 0], by_run["rl", 1, 2], by_run["rl", 1, 4]])
    mean = (by_run["vanilla", 0, 0] + by_run["vanilla", 1, 0]) / 2
    assert np.asarray(base.get_xydata()).tolist() == [[0, pytest.approx(mean)], [4, pytest.approx(mean)]]
    assert (base.get_linestyle(), curve.get_linestyle()) == ("--", "-")
    assert base.get_color() == styles(methods, {})["vanilla"].colour


def test_curves_begin_at_the_untrained_method_whatever_it_is_called() -> None:
    rows = [("base", 0, 0, 0.2), ("base", 1, 0, 0.4), ("rl", 1, 2, 0.5), ("rl", 7, 2, 0.6)]
    table = pd.DataFrame(rows, columns=["method", "seed", "epoch", "accuracy"]).assign(split="test", setting="s")
    drawn = FIGURES["accuracy"].table(Cell({"accuracy": table}, base="base"))
    begun = drawn[(drawn["method"] == "rl") & (drawn["x"] == 0)].set_index("seed")["y"]
    assert begun.to_dict() == {1: 0.4, 7: pytest.approx(0.3)}  # its own seed's base, or the mean over them
    assert set(drawn[drawn["method"] == "base"]["x"]) == {0, 2}  # a line across


def test_words_are_those_of_the_matching() -> None:
    tables = score_tables(PAPER, seeds=1)
    found = {
        matching: FIGURES["words"].table(Cell(tables, matching))["y"].sum()  # type: ignore[arg-type]
        for matching in ("word", "substring")
    }
    counts = tables["words"].groupby("matching")["count"].sum()
    assert found == counts.to_dict()
    assert found["word"] != found["substring"]


def test_training_has_the_two_most_frequent_words() -> None:
    tables = score_tables(PAPER)
    words = tables["words"]
    words.loc[words["word"] == "wait", "count"] += 90
    words.loc[words["word"] == "try again", "count"] += 40
    titles = [ax.get_title() for ax in drawn("training", tables, PAPER).axes]
    assert titles[4:] == ["“wait”", "“try again”"]


def test_differences_are_of_the_last_epoch_in_points() -> None:
    tables = score_tables(PAPER, splits=["test"], settings={"greedy": 1})
    comparisons = tables["comparisons"]
    comparisons.loc[comparisons["epoch"] != "final", "difference"] = 0.9
    found = FIGURES["differences"].table(Cell(tables))
    rl_over_sft = found[found["pair"] == "RL − SFT"]
    assert rl_over_sft["row"].tolist() == ["greedy", "all"]
    assert rl_over_sft["difference"].tolist() == pytest.approx([10, 10])  # 0.15 - 0.05
    assert rl_over_sft[["low", "high"]].iloc[0].tolist() == pytest.approx([-2, 20])
    (ax,) = drawn("differences", tables, PAPER).axes
    assert [label.get_text() for label in ax.get_yticklabels()][:3] == ["SFT − Vanilla", "greedy", "all settings"]
    intervals = [line for line in ax.get_lines() if len(line.get_xdata()) == 2 and line.get_xdata()[0] != 0]  # type: ignore[arg-type, index]
    assert len(intervals) == len(found)


def test_intervals_over_problems_only_are_dotted() -> None:
    looks = {}
    for seeds in (1, 2):
        ax = drawn("differences", score_tables(PAPER, seeds=seeds), PAPER).axes[0]
        looks[seeds] = {line.get_linestyle() for line in ax.get_lines() if line.get_marker() == "None"}
    assert looks == {1: {":", "-"}, 2: {"-"}}  # the line at zero is a whole one


def test_types_are_of_the_last_epoch_and_the_setting() -> None:
    tables = score_tables(PAPER, seeds=1, splits=["test"])
    types = tables["types"]
    last = types["epoch"].isin([0, 4])
    for setting in SETTINGS:
        found = FIGURES["types"].table(Cell(tables, setting=setting))
        expected = types[last & (types["setting"] == setting)]
        assert found["accuracy"].tolist() == expected["accuracy"].tolist()
    assert FIGURES["types"].table(Cell(tables)).equals(found)  # the last setting, if none is asked for


def test_health_is_of_generation_steps_with_bounds() -> None:
    methods = {"rl": "rl"}
    tables = score_tables(methods, seeds=1, steps=1)
    updates = tables["updates"]
    updates["tokens"] = [100, 300]
    updates["kl_loss"], updates["clip_fraction"], updates["ratio"] = [0.1, 0.2], [0.3, 0.4], [1.25, 7.0]
    updates["entropy"], updates["sampler_gap_max"] = [2.0, 4.0], [0.6, 0.2]
    updates["sampler_outside"] = [0.0, 0.4]
    found = FIGURES["health"].table(Cell(tables)).set_index("panel")
    assert found["y"].to_dict() == pytest.approx(
        {
            "KL to base model": (100 * 0.1 + 300 * 0.2) / 400,
            "Clip fraction (max)": 0.4,
            "Entropy": 3.5,
            "First ratio − 1": 0.25,
            "Sampler gap (mean)": found.loc["Sampler gap (mean)", "y"],
            "Sampler gap (max)": 0.6,
            "Sampler ratio outside 0.8–1.25": (100 * 0.0 + 300 * 0.4) / 400,
            "Cut-off responses": tables["responses"]["truncated"].iloc[0],
            "Judge time-outs": 0.0,
        }
    )
    assert found.loc["Entropy", "bound"] == pytest.approx(0.1 * 3.5)  # a share of the first step's


def test_bounds_are_seen_or_written() -> None:
    tables = score_tables({"rl": "rl"}, seeds=1, steps=1)
    tables["updates"]["entropy"] = 4.0
    figure = drawn("health", tables, {"rl": "rl"})
    for title, bound in {"Sampler gap (max)": 0.5, "Entropy": 0.4}.items():
        ax = panel(figure, title)
        assert any(
            np.asarray(line.get_ydata()).tolist() == pytest.approx([bound, bound]) for line in ax.get_lines()[1:]
        )
        assert ax.get_ylim()[0] < bound < ax.get_ylim()[1]
    assert len(panel(figure, "KL to base model\n(bound 1)").get_lines()) == 1  # 1 is far from 0.02


# --- the files -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scores(tmp_path_factory.mktemp("study") / "scores", score_tables(PAPER), PAPER)


@pytest.fixture(scope="module")
def out(scores: Path) -> Path:
    """The figures of the stage's form."""
    out = scores.parent / "figures"
    run = FiguresRun(out=str(out), scores=str(scores), setting="pass@1 t=0.01")
    (scores / "run.json").write_text(run.canonical_json())
    figures.main([str(scores / "run.json")])
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_figure_has_its_three_files(out: Path) -> None:
    names = {f"{kind}_tiny_text.{ending}" for kind in FIGURES for ending in ("csv", "png", "svg")}
    assert set(contents(out)) == names
    for path in out.glob("*.png"):
        with Image.open(path) as image:
            assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
            assert sum(image.convert("L").histogram()[:128])  # something is drawn


def test_equal_tables_give_equal_bytes_in_both_forms(scores: Path, out: Path, tmp_path: Path) -> None:
    figures.main([str(scores), "--out", str(tmp_path / "again")])
    assert contents(tmp_path / "again") == contents(out)


@pytest.mark.parametrize("kind", FIGURES)
def test_a_figure_is_that_of_the_table_beside_it(kind: str, out: Path, tmp_path: Path) -> None:
    name = f"{kind}_tiny_text"
    figure = figures.picture(kind, read_table(out / f"{name}.csv"), styles(PAPER, LABELS), "tiny on text")
    figures.save(figure, tmp_path / name)
    assert (tmp_path / f"{name}.png").read_bytes() == (out / f"{name}.png").read_bytes()
    assert (tmp_path / f"{name}.svg").read_bytes() == (out / f"{name}.svg").read_bytes()


def test_svgs_may_stand_side_by_side_in_a_light_or_dark_page(out: Path) -> None:
    ids: list[str] = []
    allowed = {INK, *(style.colour for style in styles(PAPER, {}).values())}
    for path in sorted(out.glob("*.svg")):
        text = path.read_text(encoding="utf-8")
        root = ElementTree.fromstring(text)
        own = {element.get("id") for element in root.iter() if element.get("id")}
        assert len(own) == text.count(' id="')
        assert set(re.findall(r'(?:href="|url\()#([^")]*)', text)) <= own
        ids += [str(name) for name in own]
        assert "<style" not in text and "<text" not in text
        if path.name != "scatter_tiny_text.svg":  # whose seeds have shades
            assert set(re.findall('#[0-9a-f]{6}(?=[;"])', text)) <= allowed
        assert len(text) < 250_000
    assert len(set(ids)) == len(ids)


def test_names_that_look_like_numbers_or_nothing_stay_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "FIGURES", {kind: FIGURES[kind] for kind in ("words", "types")})
    methods = {"vanilla": "vanilla", "7": "rl", "None": "rl"}
    tables = score_tables(methods, words=["null", "NA"], types=["1"], cell=("3", "nan"), settings={"1": 2})
    figures.main([str(write_scores(tmp_path / "scores", tables, methods)), "--out", str(tmp_path / "out")])
    words = read_table(tmp_path / "out" / "words_3_nan.csv")
    assert set(words["method"]) == {"7", "None"}
    assert set(words["panel"]) == {"“null”", "“NA”"}
    assert set(read_table(tmp_path / "out" / "types_3_nan.csv")["panel"]) == {"Validation, 1", "Test, 1"}


def test_every_model_on_every_data_set_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "FIGURES", {"accuracy": FIGURES["accuracy"]})
    cells = [("tiny", "text"), ("tiny", "vision")]
    parts = [score_tables({"vanilla": "vanilla"}, seeds=1, cell=cell) for cell in cells]
    tables = {name: pd.concat([part[name] for part in parts]) for name in parts[0]}
    figures.draw_all(tables, PAPER, tmp_path)
    assert {path.name for path in tmp_path.glob("accuracy*.csv")} == {
        "accuracy_tiny_text.csv",
        "accuracy_tiny_vision.csv",
    }
    first, second = (read_table(tmp_path / f"accuracy_tiny_{dataset}.csv") for _, dataset in cells)
    assert len(first) == len(second) == len(parts[0]["accuracy"])


def test_mistakes_are_named(scores: Path, tmp_path: Path) -> None:
    tables = score_tables(PAPER, seeds=1, steps=1)
    with pytest.raises(ValueError) as error:
        figures.draw_all(tables, {"vanilla": "vanilla", "sft": "sft"}, tmp_path)
    assert str(error.value) == "accuracy.csv: method 'rl' has no kind (methods: vanilla, sft)"
    with pytest.raises(ValueError) as error:
        figures.draw_all(tables, PAPER, tmp_path, setting="greedy")
    assert str(error.value) == ("setting 'greedy' is not in accuracy.csv (allowed: 'pass@8 t=1.0', 'pass@1 t=0.01')")
    with pytest.raises(ValueError) as error:
        figures.draw_all(tables, PAPER | {"rl": "ppo"}, tmp_path)
    assert str(error.value) == "method 'rl' is of kind 'ppo' (allowed: vanilla, sft, rl, other)"
    with pytest.raises(FileNotFoundError) as missing:
        figures.main([str(tmp_path), "--out", str(tmp_path / "out")])
    assert f"{tmp_path / 'accuracy.csv'}: no such table" in str(missing.value)
