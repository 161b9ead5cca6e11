"""One problem twice, found and told apart from its look-alikes; and what the report says of data made by hand."""

import json
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageOps

from stages.data import contact_sheet
from stages.data.contact_sheet import CELL, COLUMNS, PAGE, PICTURE, cut, draw, fitted, font, sample, wrapped
from stages.data.duplicates import Duplicate, check_leaks, find
from stages.data.geometry.problems import Given, picture
from stages.data.problem import Problem, read_problems, write_problems
from stages.data.report import answer_type, main

REDRAWN = Path(__file__).parent.parent.parent / "shared" / "data" / "geometry3k_redrawn" / "problems.jsonl"


def triangle(label: str = "17", apex: int = 70) -> Image.Image:
    """A line drawing on white, as the figures of geometry problems are."""
    image = Image.new("RGB", (240, 180), "white")
    brush = ImageDraw.Draw(image)
    brush.polygon([(30, 150), (210, 150), (apex, 25)], outline="black", width=2)
    brush.text((100, 155), label, "black", font(18))
    brush.text((apex + 25, 60), "x", "black", font(18))
    return image


@pytest.fixture
def problem(tmp_path: Path) -> Callable[..., Problem]:
    def made(name: str, image: Image.Image, question: str = "Find x.", answer: str = "3", kind: str = "png") -> Problem:
        (tmp_path / "images").mkdir(exist_ok=True)
        path = tmp_path / "images" / f"{name}.{kind}"
        image.save(path)
        return Problem(question, answer, "", name, path)

    return made


# --- duplicates ------------------------------------------------------------------------------------------------------


def test_an_exact_duplicate_has_the_same_words_and_the_same_pixels(problem: Callable[..., Problem]) -> None:
    train = [
        problem("a", triangle(), "Find  x.\n"),
        problem("b", triangle(), "Find y."),
        problem("c", triangle("18"), "Find y."),
    ]
    test = [problem("d", triangle(), " Find x.", answer="4", kind="bmp")]  # another file, and even another answer
    assert find({"train": train, "test": test}) == [Duplicate("exact", "train", "a", "test", "d")]


def test_equal_pixels_in_another_shape_are_another_picture(problem: Callable[..., Problem]) -> None:
    wide, high = (Image.new("RGB", size, "white") for size in ((40, 10), (10, 40)))
    assert find({"train": [problem("a", wide), problem("b", high, answer="4")]}) == []


def jpeg(image: Image.Image) -> Image.Image:
    file = BytesIO()
    image.save(file, "jpeg", quality=75)
    return Image.open(file).convert("RGB")


AGAIN: dict[str, Callable[[Image.Image], Image.Image]] = {
    "jpeg": jpeg,
    "half": lambda image: image.resize((120, 90)),
    "larger": lambda image: image.resize((360, 270)),
    "margin": lambda image: ImageOps.expand(image, 12, "white"),
    "margin on one side": lambda image: ImageOps.expand(image, (30, 0, 0, 0), "white"),
    "margin, jpeg": lambda image: jpeg(ImageOps.expand(image, 5, "white")),
}


@pytest.mark.parametrize("again", AGAIN)
def test_a_picture_saved_again_is_found_and_one_with_another_answer_is_another(
    problem: Callable[..., Problem], again: str
) -> None:
    train = [problem("a", triangle())]
    test = [problem("b", AGAIN[again](triangle())), problem("c", AGAIN[again](triangle("99")), answer="4")]
    assert find({"train": train, "test": test}) == [Duplicate("perceptual", "train", "a", "test", "b")]


def test_find_x_with_the_same_answer_in_another_figure_is_no_duplicate(problem: Callable[..., Problem]) -> None:
    numbers = [(46, 17), (49, 20), (35, 6), (48, 19)]  # 46 - 17 = 29, as the others
    figures = [picture(Given("segment_part", given), Random("one layout")) for given in numbers]
    figures += [triangle(), triangle(apex=90), triangle(apex=150)]
    assert find({"train": [problem(f"p{i}", figure, answer="29") for i, figure in enumerate(figures)]}) == []


def test_blank_pictures_can_be_compared(problem: Callable[..., Problem]) -> None:
    blank = [problem(f"b{size}", Image.new("RGB", (size, size), "white")) for size in (1, 50)]
    line = Image.new("RGB", (50, 50), "white")
    line.putpixel((0, 49), (0, 0, 0))
    assert [(d.id, d.other_id) for d in find({"train": [*blank, problem("a", line)]})] == [("b1", "b50")]


def test_every_pair_is_named_in_the_order_of_the_rows(problem: Callable[..., Problem]) -> None:
    train = [problem("c", triangle()), problem("a", jpeg(triangle()))]
    found = find({"train": train, "test": [problem("b", triangle())]})
    assert [(d.kind, d.id, d.other_id, d.leak) for d in found] == [
        ("perceptual", "c", "a", False),
        ("exact", "c", "b", True),
        ("perceptual", "a", "b", True),
    ]


def test_a_picture_whose_question_stands_once_is_not_opened() -> None:
    assert find({"train": [Problem(f"Find x{i}.", "3", "", str(i), Path("nowhere.png")) for i in range(3)]}) == []


def test_an_id_in_two_splits_is_refused_whatever_it_names(problem: Callable[..., Problem]) -> None:
    one = problem("one", triangle())
    with pytest.raises(ValueError) as error:
        find({"train": [one], "validation": [], "test": [replace(one, question="Find y.")]})
    assert (
        str(error.value)
        == "id 'one' is in train and in test; ids must differ: drop or rename one of the rows, unless two takes overlap"
    )


def test_leaks_are_named_all_at_once_unless_either_id_is_allowed() -> None:
    pairs = [
        Duplicate("exact", "train", "a", "test", "b"),
        Duplicate("perceptual", "train", "c", "validation", "d"),
        Duplicate("exact", "train", "e", "train", "f"),
    ]
    with pytest.raises(ValueError) as error:
        check_leaks(pairs, allowed=())
    assert str(error.value).splitlines() == [
        "exact duplicate: train: a, test: b",
        "perceptual duplicate: train: c, validation: d",
        "a problem must not be in two splits: drop a row of each pair, or name one of its ids in "
        "data.<name>.problems.allow_leaks",
    ]
    check_leaks(pairs, allowed=["a", "d"])
    with pytest.raises(ValueError) as error:
        check_leaks(pairs, allowed=["c"])
    assert len(str(error.value).splitlines()) == 2


# --- the report ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "answers"),
    [
        ("integer", ["7", "-12", "+3", "1,250", "$60$", "60°", "60^\\circ", "45^{\\circ}", "12\\%", " 5 "]),
        ("decimal", ["0.5", "-.5", "18.8091", "1,250.75", "3.5°"]),
        ("fraction", ["1/2", "-3 / 4", "\\frac{1}{2}", "-\\frac{1}{2}", "$\\dfrac{11}{3}$", "2\\frac{1}{2}"]),
        ("letter", ["A", "(C)", "D.", "\\text{B}"]),
        (
            "expression",
            ["5\\sqrt{3}", "2√3", "2\\pi", "x+1", "3^2", "\\frac{\\sqrt{2}}{2}", "25π", "(2, 3)", "1.2.3", "x"],
        ),
        ("text", ["yes", "AB", "five cm", "\\text{no}", "三角形", "Bob.", ""]),
    ],
)
def test_the_type_of_an_answer(kind: str, answers: list[str]) -> None:
    assert {answer: answer_type(answer) for answer in answers} == dict.fromkeys(answers, kind)


@pytest.fixture
def run(tmp_path: Path, problem: Callable[..., Problem]) -> Path:
    """A prepared data set, and the run that tells of it."""
    shared = triangle()
    splits = {
        "train": [
            replace(problem("a", shared), solution="So \\boxed{3}."),
            problem("b", triangle("8"), "求三角形的面积。$x^", "\\sqrt{2}"),
            problem("c", Image.new("RGB", (60, 30), "white"), "Which?", "A"),
            problem("f", triangle("8"), "Which?", "B"),
        ],
        "validation": [problem("d", shared, "Find the area.", "0.5")],
        "test": [problem("e", jpeg(shared), "Find x.")],
    }
    for split, problems in splits.items():
        write_problems(tmp_path / f"{split}.jsonl", problems)
    dropped = [
        {"id": "g", "reason": "no number"},
        {"id": "h", "reason": "no image"},
        {"id": "i", "reason": "no number"},
    ]
    none = {"read": 1, "kept": 1, "taken": 1, "dropped": []}
    rows = {
        "splits": {
            "train": {"read": 9, "kept": 6, "taken": 4, "dropped": dropped},
            "validation": none,
            "test": none,
        },
        "duplicates": [
            {"kind": "perceptual", "split": "train", "id": "a", "other_split": "test", "other_id": "e", "allowed": True}
        ],
    }
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    (tmp_path / "tokens").mkdir()
    (tmp_path / "tokens" / "preflight.json").write_text(json.dumps({"context": 512, "solution_tokens": {"test": None}}))
    out = {"out": str(tmp_path), "data": str(tmp_path)}
    path = tmp_path / "run.json"
    path.write_text(json.dumps({**out, "dataset": "mine", "preflights": {"tiny": str(tmp_path / "tokens")}}))
    return path


def test_the_report_by_hand(run: Path) -> None:
    main(str(run))
    told = json.loads((run.parent / "report.json").read_text())
    train = told["splits"]["train"]
    assert train["rows"] == {"read": 9, "kept": 6, "taken": 4}
    assert list(train["dropped_for"].items()) == [("no number", 2), ("no image", 1)]
    assert [row["id"] for row in train["dropped"]] == ["g", "h", "i"]
    assert train["answers"] == {"integer": 1, "decimal": 0, "fraction": 0, "letter": 2, "expression": 1, "text": 0}
    assert [told["splits"][split]["solutions"] for split in ("train", "validation", "test")] == [1, 0, 0]
    assert train["question_characters"] == {"min": 6, "median": 6.5, "max": 11}
    assert train["images"] == {
        "distinct": 3,
        "width": {"min": 60, "median": 240, "max": 240},
        "height": {"min": 30, "median": 180, "max": 180},
        "sizes": {"240x180": 3, "60x30": 1},
    }
    assert told["images_in_several_splits"] == 1, "of a and d; e has other pixels, and b and f are in one split"
    assert told["duplicates"]["within_a_split"] == {"exact": 0, "perceptual": 0}
    assert told["duplicates"]["across_splits"] == {"exact": 0, "perceptual": 1}
    assert told["duplicates"]["pairs"][0]["other_id"] == "e"
    assert told["tokens"] == {"tiny": {"context": 512, "solution_tokens": {"test": None}}}


def test_equal_data_give_equal_bytes_beside_what_is_there(run: Path) -> None:
    before = {path.name for path in run.parent.iterdir()}
    main(str(run))
    first = {name: (run.parent / name).read_bytes() for name in ("report.json", "contact_sheet.png")}
    assert {path.name for path in run.parent.iterdir()} == before | set(first)
    main(str(run))
    assert {name: (run.parent / name).read_bytes() for name in first} == first


def test_nothing_is_written_if_the_page_cannot_be_drawn(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(contact_sheet, "fitted", fails)
    with pytest.raises(OSError):
        main(str(run))
    assert not (run.parent / "report.json").exists() and not (run.parent / "contact_sheet.png").exists()


# --- the page --------------------------------------------------------------------------------------------------------


def test_the_page_has_a_sample_of_each_split_and_the_pairs(problem: Callable[..., Problem]) -> None:
    one = problem("one", Image.new("RGB", (100, 50), "#ff0000"))
    other = problem("other", Image.new("RGB", (100, 50), "#0000ff"))
    pair = {"kind": "exact", "split": "train", "id": "one", "other_split": "test", "other_id": "other"}
    red, blue = (2 * 100 * 2 * 50 for _ in range(2))  # twice as large

    def area(page: Image.Image, colour: tuple[int, int, int]) -> int:
        found = page.getcolors(page.width * page.height)
        return {shade: count for count, shade in found or []}.get(colour, 0)  # type: ignore[misc]

    page = draw("mine", {"train": [one] * 30, "test": [other]}, [])
    assert area(page, (255, 0, 0)) == 24 * red and area(page, (0, 0, 255)) == blue
    assert page.getpixel((0, 0)) == Image.new("RGB", (1, 1), PAGE).getpixel((0, 0))
    with_pairs = draw("mine", {"train": [one], "test": [other]}, [pair] * 20)
    assert area(with_pairs, (255, 0, 0)) == 13 * red and area(with_pairs, (0, 0, 255)) == 13 * blue
    assert with_pairs.width == page.width > COLUMNS * CELL


@pytest.mark.parametrize("size", [(1, 1), (50, 40), (4000, 20), (20, 4000), (300, 300)])
def test_a_picture_keeps_its_proportions(size: tuple[int, int]) -> None:
    width, height = size
    small = fitted(Image.new("RGB", size))
    assert small.width <= CELL and small.height <= PICTURE and small.width <= 2 * width
    assert abs(small.width - small.height * width / height) <= max(1.0, width / height)


def test_a_sample_is_evenly_spaced() -> None:
    assert sample(range(100), 4) == [0, 25, 50, 75]
    assert sample("abc", 8) == ["a", "b", "c"]


@given(st.text(max_size=300), st.integers(1, 5))
def test_no_line_is_too_long_and_nothing_is_lost_that_fits(text: str, most: int) -> None:
    face = font(13)
    lines = wrapped(text, face, CELL, most)
    assert len(lines) <= most
    assert all(face.getlength(line) <= CELL for line in lines)
    if not lines[-1].endswith("…"):
        assert "".join("".join(lines).split()) == "".join(text.split())
    if face.getlength(" ".join(text.split())) <= CELL:
        assert lines == [" ".join(text.split())]


def test_a_word_longer_than_a_line_breaks_anywhere() -> None:
    chinese = "求三角形的面积" * 8
    lines = wrapped(chinese, font(13), CELL, 5)
    assert len(lines) > 1 and "".join(lines) == chinese
    assert all(font(13).getlength(line) <= CELL for line in lines)


def test_what_is_cut_says_so() -> None:
    assert wrapped("word " * 100, font(13), CELL, 3)[-1].endswith("…")
    assert cut("short", font(13), CELL) == "short"
    assert cut("long " * 50, font(13), CELL).startswith("long long") and cut("long " * 50, font(13), CELL)[-1] == "…"


# --- real problems ---------------------------------------------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.skipif(not REDRAWN.is_file(), reason="the shared data is not beside the project")
def test_geometry3k_has_no_duplicates_until_one_is_saved_again(tmp_path: Path) -> None:
    problems = read_problems(REDRAWN)
    again = []
    for problem in problems[::40]:
        path = tmp_path / f"{problem.id}.jpg"
        problem.picture().save(path, quality=75)
        again.append(replace(problem, id=f"{problem.id}_again", image=path))
    found = find({"train": problems, "test": again})
    assert [(d.kind, d.id, d.other_id) for d in found] == [
        ("perceptual", p.id, f"{p.id}_again") for p in problems[::40]
    ]
