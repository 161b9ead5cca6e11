"""The page of studies made by hand: what it says, and that nothing in it can be more than text."""

import base64
import html
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from stages.config import ReportRun, load_study
from stages.report import embedding, gallery, headline, page, report, runs, settings, shading
from stages.report.cell import read_rows
from stages.report.figures import FIGURES
from tests.conftest import STUDY
from tests.reported import HOSTILE, SVG, Shape, score_tables, write_all

VOID = {"meta", "img", "br", "input", "hr", "link"}


class Document(HTMLParser):
    """A page taken apart: elements with their attributes, and that every element that is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def all(self, attribute: str) -> list[str]:
        return [str(attributes[attribute]) for _, attributes in self.elements if attribute in attributes]


def written(folder: Path, run: ReportRun) -> str:
    """The file of the page's run."""
    (folder / "run.json").write_text(run.canonical_json())
    return str(folder / "run.json")


def reported(folder: Path, shape: Shape | None = None) -> str:
    """The page of a study, made as its rule makes it."""
    report.main(written(folder, write_all(folder, shape or Shape())))
    return (folder / "report/report.html").read_text(encoding="utf-8")


def words(text: str) -> str:
    """What a page says: without style, script, tags and line breaks."""
    text = re.sub(r"<(style|script)>.*?</\1>", " ", text, flags=re.DOTALL)
    text = re.sub(r"</?(strong|em|b|span|code|mark)\b[^>]*>", "", text)  # no white space on a screen
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    reported(folder)
    return folder


@pytest.fixture
def text(folder: Path) -> str:
    return (folder / "report/report.html").read_text(encoding="utf-8")


# --- the whole page --------------------------------------------------------------------------------------------------


def test_the_page_is_one_file_that_asks_for_no_other(folder: Path, text: str) -> None:
    assert {path.name for path in (folder / "report").iterdir()} == {"report.html", "provenance.json"}
    document = Document(text)
    addresses = [value for name in ("src", "href", "srcset", "action", "poster") for value in document.all(name)]
    assert addresses and all(value.startswith(("data:", "#")) for value in addresses)
    assert "@import" not in text and not re.search(r"url\((?!#)", text)
    policy = next(str(meta["content"]) for meta in document.named("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none';")


def test_ids_are_unique_and_links_have_their_targets(text: str) -> None:
    document = Document(text)
    ids = document.all("id")
    assert len(ids) == len(set(ids))
    links = {value[1:] for value in document.all("href") if value.startswith("#")}
    named = {name for value in document.all("aria-labelledby") for name in value.split()}
    assert links | named <= set(ids) and {"findings", "table3", "figures", "gallery", "runs", "settings"} <= links


def test_headings_are_in_order_and_tables_have_captions(text: str) -> None:
    document = Document(text)
    levels = [int(tag[1]) for tag, _ in document.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert len(document.named("caption")) == len(document.named("table"))
    assert all("scope" in cell for cell in document.named("th"))
    assert all(image.get("alt") for image in document.named("img"))


def test_equal_files_give_an_equal_page(tmp_path: Path) -> None:
    run = write_all(tmp_path, Shape())
    once, twice = (report.page("x", *map(Path, (run.scores, run.tables, run.figures)), run) for _ in range(2))
    assert once == twice


def test_scores_that_were_moved_away_from_their_study_give_an_equal_page(tmp_path: Path) -> None:
    run = write_all(tmp_path / "study", Shape())
    report.main(written(tmp_path, run))
    beside = Path(run.out, "report.html").read_bytes()
    parts = {name: str(tmp_path / "elsewhere" / name) for name in ("scores", "tables", "figures")}
    for name, path in parts.items():
        shutil.copytree(getattr(run, name), path)
    shutil.rmtree(tmp_path / "study")
    report.main(written(tmp_path, run.model_copy(update=parts | {"out": str(tmp_path / "page")})))
    assert (tmp_path / "page/report.html").read_bytes() == beside


def test_hostile_responses_are_shown_as_they_are(text: str) -> None:
    document = Document(text)
    assert len(document.named("script")) == 1  # the page's own
    assert not any(name.startswith("on") for _, attributes in document.elements for name in attributes)
    shown = re.findall(r'<div class="response" dir="auto">(.*?)</div>', text, re.DOTALL)
    assert len(shown) == 2 * 3 + 7  # two problems, three methods; the gallery's
    assert {html.unescape(re.sub("</?mark>", "", response)) for response in shown} == {HOSTILE}


def test_half_a_character_does_not_stop_the_page(tmp_path: Path) -> None:
    run = write_all(tmp_path, Shape())
    kept = Path(run.scores, "gallery.jsonl")
    row = json.loads(kept.read_text().splitlines()[0])
    kept.write_text(json.dumps({**row, "text": "wait, \ud83d!", "begin": 0, "end": 4}))
    report.main(written(tmp_path, run))
    assert "<mark>wait</mark>, ?!" in (tmp_path / "report/report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "shape",
    [
        Shape(methods=("vanilla", "sft")),
        Shape(methods=("vanilla",), seeds=(1,)),
        Shape(methods=("grpo",), seeds=(1,)),
        Shape(datasets=("text", "vision"), methods=("vanilla", "sft", "grpo", "rpp"), seeds=(1, 2, 3)),
    ],
    ids=lambda shape: "-".join(shape.methods),
)
def test_every_grid_has_a_page(tmp_path: Path, shape: Shape) -> None:
    text = reported(tmp_path, shape)
    Document(text)
    said = words(text)
    assert f"Seeds {len(shape.seeds)} (" in said
    assert ("There is one seed, so" in said) == (len(shape.seeds) == 1)
    assert ("No response's answer went from wrong to right" in said) == (not shape.of_rl)
    assert not re.search(r"\b(nan|None|NaN|inf)\b", said)


def test_scores_of_responses_from_elsewhere_need_no_study(tmp_path: Path) -> None:
    run = write_all(tmp_path, Shape())
    text = report.page("mine", Path(run.scores), Path(run.tables), Path(run.figures))
    sections = [str(section["id"]) for section in Document(text).named("section")]
    assert sections == ["findings", "table3", "figures", "gallery", "responses", "runs"]
    for name in ("samples", "runs"):
        Path(run.scores, f"{name}.jsonl").unlink()
    text = report.page("mine", Path(run.scores), Path(run.tables), Path(run.figures))
    sections = [str(section["id"]) for section in Document(text).named("section")]
    assert sections == ["findings", "table3", "figures", "gallery"]


def test_accuracy_alone_is_enough(tmp_path: Path) -> None:
    scores = tmp_path / "scores"
    scores.mkdir()
    score_tables(Shape())["accuracy"].to_csv(scores / "accuracy.csv", index=False)
    text = report.page("mine", scores, tmp_path / "none", tmp_path / "none")
    assert [str(section["id"]) for section in Document(text).named("section")] == ["findings"]
    assert "No claim was tested on these scores." in text


def test_a_folder_without_scores_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError) as error:
        report.page("mine", tmp_path, tmp_path, tmp_path)
    assert str(error.value).startswith(f"{tmp_path}: no accuracy.csv")


# --- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (page.number(float("nan")), "–"),
        (page.number(-1234.56), "−1,234.6"),
        (page.number(-0.04, sign=True), "0.0"),  # neither +0.0 nor −0.0
        (page.percent(0.1234, sign=True), "+12.3"),
        (page.percent(None), "–"),
        (page.probability(0.0004), "< 0.001"),
        (page.probability(0.0499), "0.050"),
        (page.short(-1.23456e-5), "−1.23e−05"),
        (page.short(None), "–"),
        (page.duration(59.6), "1 min 00 s"),
        (page.duration(7380), "2 h 03 min"),
        (page.effect(0.071, "accuracy"), "+7.1"),
        (page.effect(1.354, "ratio"), "1.35"),
        (page.effect(None, "correlation"), "–"),
    ],
)
def test_numbers_are_written_for_people(said: str, expected: str) -> None:
    assert said == expected


# --- findings --------------------------------------------------------------------------------------------------------


def test_a_finding_says_its_verdict_in_words_and_its_numbers(text: str) -> None:
    said = words(text)
    assert "Of 3 claims, 1 is supported, 1 contradicted, and 1 undecided by this study" in said
    assert "; on 1 of these there was nothing to test." in said
    assert "✓ supported F3-test, Sec. 5 RL generalises better than SFT, out of distribution" in said
    assert "+7.1 points [+2.0, +12.1] needs above 0.0 points; p < 0.001, adjusted 0.004; 2 seeds, 200 problems" in said
    assert "✗ contradicted F4, Sec. 5 Reflection is a <minority> behaviour" in said
    assert "81.0 % [77.0, 85.0] needs below 50.0 %; p 0.200, adjusted 0.400" in said
    assert "There is one seed. – needs above 1.00 ×; p –, adjusted –; 2 seeds" in said


def test_an_interval_is_drawn_to_scale() -> None:
    finding = {
        "effect": 0.5,
        "low": 0.25,
        "high": 1.0,
        "threshold": 0.0,
        "unit": "share",
        "direction": "above",
        "details": [{"effect": -1.0, "low": None, "high": None}],
    }
    whole, part = headline.intervals(finding)
    assert whole.effect is not None and whole.low is not None and whole.high is not None and part.effect is not None
    unit = whole.high - whole.threshold  # of 1.0
    assert whole.effect - whole.threshold == pytest.approx(unit / 2, abs=0.1)
    assert whole.low - whole.threshold == pytest.approx(unit / 4, abs=0.1)
    assert whole.threshold - part.effect == pytest.approx(unit, abs=0.1)  # one scale for all
    assert (part.low, part.high) == (None, None)
    assert whole.zone == (whole.threshold, headline.WIDTH)
    assert headline.intervals({**finding, "direction": "below"})[0].zone == (0, whole.threshold)
    nothing = headline.intervals({**finding, "effect": None, "low": None, "high": None, "details": []})[0]
    assert nothing.effect is None and 0 <= nothing.threshold <= headline.WIDTH


def test_what_could_be_detected_is_said_of_the_last_epoch() -> None:
    table = score_tables(Shape())["comparisons"]
    greatest = table.iloc[:1].assign(detectable=0.05)  # SFT over Vanilla, validation
    settings_together = table.assign(setting="all", detectable=0.02)
    together = settings_together.assign(model="all", dataset="all", detectable=0.01)
    other = table.assign(epoch="best", detectable=0.9)
    found = headline.detectable(pd.concat([table, greatest, settings_together, together, other]))
    said = [
        (row["method"], row["over"], row["split"], *(row[kind] for kind in ("one", "settings", "all"))) for row in found
    ]
    pooled = ((0.02, 0.02), (0.01, 0.01))
    assert said == [
        ("SFT", "Vanilla", "validation", (0.044, 0.05), *pooled),
        ("GRPO", "Vanilla", "validation", (0.044, 0.044), *pooled),
        ("GRPO", "SFT", "validation", (0.044, 0.044), *pooled),
        ("SFT", "Vanilla", "test", (0.031, 0.031), *pooled),
        ("GRPO", "Vanilla", "test", (0.031, 0.031), *pooled),
        ("GRPO", "SFT", "test", (0.031, 0.031), *pooled),
    ]
    assert headline.detectable(table)[0]["all"] is None
    assert headline.detectable(table.assign(detectable=None)) == []


def test_counts_of_the_judge_are_of_responses() -> None:
    table = pd.DataFrame(
        {
            "model": "m",
            "dataset": "d",
            "method": "vanilla",
            "seed": 0,
            "split": ["test", "test"],
            "epoch": 0,
            "setting": ["a", "b"],
            "samples": [8, 1],
            "problems": 10,
            "no_answer": [0.5, 1.0],
            "timed_out": [0.0, 0.1],
        }
    )
    assert headline.compared(table)["judged"] == {"responses": 90, "no_answer": 50, "timed_out": 1}


# --- Table 3 ---------------------------------------------------------------------------------------------------------


def test_table_3_compares_methods_side_by_side(tmp_path: Path) -> None:
    rows = [
        ("d", "m", "s", "test", "vanilla", "base", 0.3, 0.01),
        ("d", "m", "s", "test", "sft", "mean", 0.25, None),
        ("d", "m", "s", "test", "sft", "final", 0.2, 0.01),
        ("d", "m", "s", "test", "rl", "mean", 0.4, 0.01),
        ("d", "m", "t", "test", "rl", "mean", 0.4, 0.01),
    ]
    names = ["dataset", "model", "setting", "split", "method", "statistic", "accuracy", "std"]
    (table,) = shading.shaded(pd.DataFrame(rows, columns=names), {"vanilla": "vanilla", "sft": "sft", "rl": "rl"})
    assert table["heads"] == [
        ("Base model", ["Vanilla"]),
        ("Mean over epochs", ["SFT", "RL"]),
        ("Last epoch", ["SFT"]),
    ]
    first, second = table["groups"][0]["rows"].values()
    assert [cell and cell.shade for cell in first] == ["", "loss2", "gain3", "loss3"]
    assert [cell is None for cell in second] == [True, True, False, True]
    assert np.isnan(second[2].change) and second[2].shade == ""  # no Vanilla to compare with


# --- figures ---------------------------------------------------------------------------------------------------------


def test_a_drawing_takes_the_pages_colours_and_its_own_ids(tmp_path: Path) -> None:
    path = tmp_path / "a.svg"
    path.write_text(SVG)
    drawn = embedding.inline_svg(path, "f1-", "A & B", "#1f2328")
    document = Document(drawn)
    assert document.all("id") == ["f1-mark", "f1-clip", "f1-figure_1", "f1-patch"]
    assert document.all("href") == ["#f1-mark"] and document.all("clip-path") == ["url(#f1-clip)"]
    assert "stroke: currentColor" in drawn and "#1f2328" not in drawn.lower()
    assert "fill: var(--paper)" in drawn
    assert not {"script", "style", "metadata"} & {tag for tag, _ in document.elements} and "onclick" not in drawn
    (root,) = document.named("svg")
    assert (root["role"], root["aria-label"], root["viewbox"]) == ("img", "A & B", "0 0 300 100")
    assert "width" not in root and "height" not in root


@pytest.mark.parametrize("content", ["not XML", "<html></html>"])
def test_a_figure_that_is_no_drawing_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.svg").write_text(content)
    with pytest.raises(ValueError) as error:
        embedding.inline_svg(tmp_path / "a.svg", "", "", "#000000")
    assert str(error.value).startswith(f"{tmp_path}/a.svg: not an SVG")


def test_the_table_behind_a_figure_is_there_and_whole_to_save(folder: Path, text: str) -> None:
    document = Document(text)
    saved = [link for link in document.named("a") if str(link.get("download", "")).endswith(".csv")]
    assert [link["download"] for link in saved] == [f"{kind}_tiny_text.csv" for kind in _order()]
    content = base64.b64decode(str(saved[0]["href"]).removeprefix("data:text/csv;base64,"))
    assert content == (folder / "figures" / str(saved[0]["download"])).read_bytes()
    behind = text[text.index("<caption>accuracy_tiny_text.csv") :]
    body = behind[behind.index("<tbody>") : behind.index("</tbody>")]
    assert body.count("<tr>") == 200 and "<td>0</td><td>–</td>" in body
    assert "The first 200 of 250 rows." in text


def _order() -> list[str]:
    """The three kinds that the study has, in the order of the figures' registry."""
    return [kind for kind in FIGURES if kind in ("accuracy", "training", "words")]


def test_a_figure_without_an_svg_is_a_picture(tmp_path: Path) -> None:
    run = write_all(tmp_path, Shape())
    figures = Path(run.figures)
    (figures / "words_tiny_text.svg").unlink()
    (figures / "words_tiny_text.csv").unlink()
    Image.new("RGB", (4, 4)).save(figures / "words_tiny_text.png")
    text = report.page("x", Path(run.scores), Path(run.tables), figures)
    images = [image for image in Document(text).named("img") if "on text" in str(image["alt"])]
    assert len(images) == 1 and str(images[0]["src"]).startswith("data:image/png;base64,")


def test_large_pictures_become_small(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGBA", (2000, 500), (0, 0, 0, 0)).save(path)
    content = base64.b64decode(embedding.picture_uri(path).removeprefix("data:image/png;base64,"))
    (tmp_path / "b.png").write_bytes(content)
    with Image.open(tmp_path / "b.png") as image:
        assert image.size == (480, 120)
        assert image.getpixel((1, 1)) == (255, 255, 255)  # what is transparent is white


# --- responses -------------------------------------------------------------------------------------------------------


def test_the_gallery_is_by_rank_and_marks_the_reflection(text: str) -> None:
    section = text[text.index('<section id="gallery"') : text.index('<section id="responses"')]
    assert section.count("<mark>wait</mark>") == 7
    said = words(section)
    assert "The first 6 by rank, of 6 that are kept" in said and "2 more" in said
    assert said.count("9 → 7, wanted 7: ✓ wrong to right") == 6 and said.count("✗ right to wrong") == 1
    assert "GRPO, tiny, text, seed 1; in training, generation step 3 (epoch 1); problem p_1" in said
    assert section.count("<img") == 3 and said.count("No picture.") == 4  # gone.png
    assert "training: 180 of 800 responses" not in said  # stated, not reflective ones
    assert (
        "GRPO, training: 80 of 800 responses state an answer and then reflect. Of these, 18 turn a wrong answer" in said
    )
    assert "8 a right one into a wrong one, so that reflection gains 10 right answers, 1.25 % of all responses." in said


def test_a_reflection_that_loses_is_said_to_lose(tmp_path: Path) -> None:
    run = write_all(tmp_path, Shape())
    changes = score_tables(Shape())["changes"].iloc[:1].assign(wrong_to_right=3, right_to_wrong=4)
    changes.to_csv(Path(run.scores, "changes.csv"), index=False)
    said = words(report.page("x", Path(run.scores), Path(run.tables), Path(run.figures)))
    assert "so that reflection loses 1 right answer, 0.25 % of all responses." in said


def test_a_detail_says_why_it_is_undecided(tmp_path: Path) -> None:
    assert "? undecided a trained method has one seed" in words(reported(tmp_path, Shape(seeds=(1,))))


def test_ranks_decide_what_is_not_folded_away(tmp_path: Path) -> None:
    run = write_all(tmp_path, Shape())
    right, wrong = gallery.changed_answers(Path(run.scores, "gallery.jsonl"))
    assert [entry["rank"] for entry in right["first"]] == [1, 2, 3, 4]
    assert [entry["rank"] for entry in right["more"]] == [5, 6]
    assert [entry["rank"] for entry in wrong["first"]] == [1]


def test_the_first_two_problems_are_printed_with_the_first_response(text: str) -> None:
    section = text[text.index('<section id="responses"') : text.index('<section id="runs"')]
    assert re.findall(r"<h3>(.*?)</h3>", section) == ["text: problem p_3", "text: problem p_2"]  # the file's order
    assert "another response" not in text
    assert section.count("<strong>Vanilla</strong>, tiny, epoch 0: ✗ wrong") == 2
    assert section.count("<strong>GRPO</strong>, tiny, epoch 4: ✓ right") == 2
    assert "Is *p_3* &lt;b&gt;5 &amp; 6?" in section


# --- runs ------------------------------------------------------------------------------------------------------------


def jobs(run: ReportRun) -> list[dict[str, Any]]:
    """What every training and evaluation wrote down about itself."""
    return read_rows(Path(run.scores, "runs.jsonl"))


def write_jobs(run: ReportRun, rows: list[dict[str, Any]]) -> None:
    Path(run.scores, "runs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_run_tells_what_it_took(tmp_path: Path) -> None:
    shape = Shape()
    tables = score_tables(shape)
    run = write_all(tmp_path, shape)
    found = runs.runs(jobs(run), tables["responses"], tables["updates"], tables["health"])
    grpo = next(one for one in found if (one.where, one.who) == ("tiny on text", "GRPO, seed 1"))
    # 2 epochs x 2 splits x (1600 + 200) responses of 40.5 tokens; 4 steps of 100 with 50; 4 updates of 64.
    assert grpo.tokens == {"train": 20000, "evaluate": 291600, "updates": 256}
    assert grpo.seconds == {"Training": 74.2, "Evaluation": 74.2}
    assert grpo.marks == {"sound": 1, "suspicious": 1, "unknown": 1}
    assert [job.name for job in found[0].jobs] == ["Evaluation"]  # vanilla
    assert grpo.jobs[0].settings == {"epochs": 8, "settings.optimizer.betas": [0.9, 0.95], "settings.note": None}
    total = runs.totals(found)
    assert total["seconds"] == pytest.approx((2 + 4 + 4) * 74.2)
    assert total["marks"] == {"sound": 2, "suspicious": 2, "unknown": 2}
    assert runs.versions(found) == {
        "commit": ["abc"],
        "python": ["3.12.1"],
        "torch": ["2.9"],
        "machine": ["A processor, 2 cores, 25.3 GB"],
    }


def test_lengths_in_characters_are_no_tokens(tmp_path: Path) -> None:
    tables = score_tables(Shape())
    run = write_all(tmp_path, Shape())
    found = runs.runs(jobs(run), tables["responses"].assign(unit="characters"), tables["updates"], tables["health"])
    assert found[0].tokens == {}


def test_a_run_without_provenance_is_shown_with_dashes(tmp_path: Path) -> None:
    run = write_all(tmp_path, Shape())
    write_jobs(run, [job | {"provenance": {}} for job in jobs(run)])
    text = report.page("x", Path(run.scores), Path(run.tables), Path(run.figures), run)
    assert "6 runs took – of wall-clock" in words(text)


def test_a_training_that_was_interrupted_is_shown_to_have_been(tmp_path: Path) -> None:
    run = write_all(tmp_path, Shape())
    told = jobs(run)
    assert "tries" not in words(report.page("x", Path(run.scores), Path(run.tables), Path(run.figures), run))
    tries = [{"host": host, "after_step": step} for host, step in (("node1", 0), ("node2", 12), ("node1", 40))]
    training = next(job for job in told if job["phase"] == "train")
    training["provenance"]["tries"] = tries
    write_jobs(run, told)
    said = words(report.page("x", Path(run.scores), Path(run.tables), Path(run.figures), run))
    assert said.count("in 3 tries") == 1
    assert "Interrupted; 3 tries on node1, node2, resumed after step 12, 40." in said


@pytest.mark.parametrize(
    ("change", "mistake"),
    [
        (lambda rows: rows[2]["settings"].update(epochs=9), "{0} ran with other settings than the study has now"),
        (lambda rows: rows.pop(2), "no {0}, which the study has"),
        (lambda rows: rows.append(rows[2] | {"folder": "results/rl/x"}), "results/rl/x is no run of the study"),
        (lambda rows: rows.clear(), "no .*, which the study has"),
    ],
    ids=["changed", "missing", "more", "none"],
)
def test_scores_of_other_runs_than_the_studys_are_refused(
    tmp_path: Path, change: Callable[[list[dict[str, Any]]], object], mistake: str
) -> None:
    run = write_all(tmp_path, Shape())
    rows = jobs(run)
    folder = rows[2]["folder"]
    change(rows)
    write_jobs(run, rows)
    end = r" \(scores of another study, .*\); run `snakemake --cores all`, or give the study they are of$"
    with pytest.raises(SystemExit, match=f"^{run.scores}: {mistake.format(folder)}{end}"):
        report.main(written(tmp_path, run))
    assert not Path(run.out).exists()


def test_checks_are_told_by_words_and_marks(text: str) -> None:
    said = words(text)
    assert "entropy_left ! suspicious 0.02 0.1 What entropy_left says." in said
    assert "sampler_gap ? unknown – 0.01" in said
    assert "Checks of the RL trainings: ✓ 2 sound, ! 2 suspicious, ? 2 unknown." in said


# --- settings --------------------------------------------------------------------------------------------------------


def test_settings_are_compared_with_the_papers_method_of_their_kind(tmp_path: Path) -> None:
    run = write_all(tmp_path, Shape())
    differ, same = settings.against_paper(run.settings, run.paper)
    assert {setting.key: (setting.ours, setting.papers) for setting in differ} == {
        "rl.grpo.epsilon": ("0.2", "0.3"),
        "data.text.epochs": ("3", "30 (mm_math5k), 50 (geometry3k)"),
    }
    keys = {setting.key for setting in same}
    assert {"rl.grpo.optimizer.betas", "compute.dtype", "scores.reflection_words", "evaluate.splits"} <= keys
    # What the paper does not state is no agreement; and rpp is not in the grid.
    unstated = ("sft.sft.optimizer.betas", "compute.threads", "scores.gallery", "prompt.", "rl.rpp")
    assert not [key for key in keys if key.startswith(unstated)]


def test_a_data_set_of_the_paper_is_compared_by_its_name(tmp_path: Path) -> None:
    run = write_all(tmp_path, Shape())
    paper = {**run.paper, "data": {"text": {"epochs": 3}}}
    assert settings.Setting("data.text.epochs", "3", "3") in settings.against_paper(run.settings, paper)[1]


def test_a_key_that_one_side_lacks_differs(tmp_path: Path) -> None:
    run = write_all(tmp_path, Shape())
    paper = json.loads(json.dumps(run.paper))
    paper["evaluate"]["settings"]["pass@1"]["top_k"] = paper["evaluate"]["settings"]["pass@1"].pop("top_p")
    pairs = {setting.key: setting[1:] for setting in settings.against_paper(run.settings, paper)[0]}
    assert pairs["evaluate.settings.pass@1.top_p"] == ("0.001", None)
    assert pairs["evaluate.settings.pass@1.top_k"] == (None, "0.001")


def test_the_study_that_the_page_hands_out_is_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parent.parent
    raw = {**STUDY, "scores": str(root / "config/scores.yaml")}
    raw["base"] = {"tiny": STUDY["base"]["tiny"], "given": {"source": "checkpoint", "path": "repository"}}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "study.yaml").write_text(json.dumps(raw))
    study = load_study("study.yaml")
    (tmp_path / "again.yaml").write_text(settings.as_file(study.model_dump(mode="json")))
    assert load_study("again.yaml") == study
