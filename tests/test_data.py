"""Generated problems against geometry done by hand here; other people's data against every mistake it may have."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable
from itertools import combinations, islice
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages.config import GeneratedProblems, JsonlRows, Noise, RealProblems
from stages.data.boxes import boxed
from stages.data.geometry.drawing import UNITS
from stages.data.geometry.kinds import KINDS, PRACTISED, UNPRACTISED
from stages.data.geometry.problems import Given, Mode, Split, draw_corpus, draw_given, figure, question
from stages.data.geometry.solutions import REFLECTIONS, golden_solution, imperfect_solution
from stages.data.prepare import prepare, read, take
from stages.data.problem import on_white, read_problems
from stages.files import whole_folder

SPLITS: tuple[Split, ...] = ("corpus", "train", "validation", "test")

# What a person who knows geometry answers.
ANSWERS: dict[str, Callable[..., int]] = {
    "triangle_angle": lambda a, b: 180 - (a + b),
    "straight_line": lambda a, b: 180 - (a + b),
    "exterior_angle": lambda a, b: 180 - (180 - a - b),
    "segment_sum": lambda a, b: a + b,
    "segment_part": lambda whole, part: whole - part,
    "triangle_perimeter": lambda *sides: sum(sides),
    "rectangle_perimeter": lambda a, b: 2 * (a + b),
    "right_angle": lambda a, b: 90 - (a + b),
    "quadrilateral_angle": lambda a, b, c: 360 - (a + b + c),
    "remote_angle": lambda exterior, remote: 180 - remote - (180 - exterior),
    "isosceles_perimeter": lambda leg, base: 2 * leg + base,
    "quadrilateral_perimeter": lambda *sides: sum(sides),
    "segment_middle": lambda whole, a, b: whole - (a + b),
}


def generated(**changes: Any) -> GeneratedProblems:
    values = {"mode": "text", "seed": 5, "train": 26, "validation": 13, "test": 13}
    return GeneratedProblems(source="generated", **(values | changes))


def prepared(settings: GeneratedProblems | RealProblems, folder: Path) -> Path:
    folder.mkdir()
    prepare(settings, folder)
    return folder


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def drawn(kind: str, count: int = 60) -> list[Given]:
    random = Random(kind)
    return [Given(kind, KINDS[kind].draw_numbers(random)) for _ in range(count)]


# --- generated problems ----------------------------------------------------------------------------------------------


def test_equal_settings_give_equal_bytes(tmp_path: Path) -> None:
    first = contents(prepared(generated(), tmp_path / "first"))
    assert contents(prepared(generated(), tmp_path / "second")) == first
    assert contents(prepared(generated(seed=6), tmp_path / "third")) != first
    assert len(first) == 3 + 26 + 13 + 13 + len(["rows.json"])


def test_a_prepared_data_set_reads_back(tmp_path: Path) -> None:
    folder = prepared(generated(), tmp_path / "data")
    problems = {split: read_problems(folder / f"{split}.jsonl") for split in ("train", "validation", "test")}
    assert {split: len(found) for split, found in problems.items()} == {"train": 26, "validation": 13, "test": 13}
    for problem in problems["train"]:
        assert problem.picture().size == (256, 256)
        assert boxed(problem.solution) == problem.answer
    account = json.loads((folder / "rows.json").read_text())
    assert account == {
        "splits": {
            split: {"read": n, "kept": n, "taken": n, "dropped": []}
            for split, n in (("train", 26), ("validation", 13), ("test", 13))
        },
        "duplicates": [],
    }


def test_no_problem_is_in_two_splits() -> None:
    keys = {split: {given.key for given in draw_given(split, 300, seed)} for split in SPLITS[1:] for seed in (1, 2)}
    keys["corpus"] = {given.key for given in islice(draw_corpus(3), 5000)}
    for one, other in combinations(SPLITS, 2):
        assert not keys[one] & keys[other]


def test_the_order_of_the_numbers_makes_no_other_problem() -> None:
    for kind in ("triangle_angle", "quadrilateral_perimeter"):
        for given in drawn(kind):
            turned = Given(kind, given.numbers[::-1])
            assert (turned.key, turned.split, turned.answer) == (given.key, given.split, given.answer)


def test_the_test_asks_what_was_not_practised() -> None:
    assert {given.kind for given in draw_given("test", 60, 1)} == set(UNPRACTISED)
    for split in ("train", "validation"):
        assert {given.kind for given in draw_given(split, 60, 1)} == set(PRACTISED)
    assert {given.kind for given in islice(draw_corpus(1), 100)} == set(KINDS)


def test_kinds_are_drawn_evenly() -> None:
    counts = Counter(given.kind for given in draw_given("train", 70, 1))
    assert set(counts.values()) == {10}


def test_a_split_says_how_many_problems_it_holds() -> None:
    with pytest.raises(ValueError, match=r"^the test split has \d+ different problems with seed 1, not 100000$"):
        draw_given("test", 100_000, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_what_geometry_says(kind: str) -> None:
    for given in drawn(kind):
        assert given.answer == ANSWERS[kind](*given.numbers)
        assert given.answer > 0
        assert all(number > 0 for number in given.numbers)


def test_figures_are_possible() -> None:
    """A side is shorter than the others together, and angles leave room for the one that is asked."""
    for kind in ("triangle_perimeter", "quadrilateral_perimeter"):
        assert all(2 * max(given.numbers) < sum(given.numbers) for given in drawn(kind))
    for leg, base in (given.numbers for given in drawn("isosceles_perimeter")):
        assert base < 2 * leg
    for exterior, remote in (given.numbers for given in drawn("remote_angle")):
        assert 0 < remote < exterior < 180
    for given in drawn("exterior_angle"):
        assert sum(given.numbers) < 180


def numbers_in(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_numbers_stand_in_the_text_or_in_the_figure_alone(kind: str) -> None:
    modes: tuple[Mode, ...] = ("text", "vision")
    for i, given in enumerate(drawn(kind)):
        text, vision = (question(given, mode, Random(i)) for mode in modes)
        assert sorted(numbers_in(text)) == sorted(given.numbers)
        assert numbers_in(vision) == []
        for wording in (text, vision):
            assert KINDS[kind].asked in wording


EQUATION = re.compile(r"(\d+)([+-])(\d+)=(\d+)")


def false_equations(text: str) -> list[tuple[str, ...]]:
    return [
        (a, sign, b, c)
        for a, sign, b, c in EQUATION.findall(text)
        if int(c) != (int(a) + int(b) if sign == "+" else int(a) - int(b))
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_golden_solutions_calculate_right_up_to_the_box(kind: str) -> None:
    for i, given in enumerate(drawn(kind)):
        solution = golden_solution(given, Random(i))
        assert EQUATION.findall(solution)[-1][-1] == boxed(solution) == str(given.answer)
        assert solution.endswith(f"\\boxed{{{given.answer}}}.")
        assert solution.count("\\boxed") == 1
        assert not false_equations(solution)
        restated = numbers_in(solution.split(".")[0])
        assert restated == list(given.numbers)


# --- figures ---------------------------------------------------------------------------------------------------------


def labels(glyphs: list[tuple[int, int, str]]) -> list[str]:
    """What stands on the lattice, read as a person reads: glyphs side by side in a row are one label."""
    found: list[str] = []
    before = (-1, -1)
    for row, column, glyph in sorted(glyphs):
        if (row, column - 1) == before:
            found[-1] += glyph
        else:
            found.append(glyph)
        before = (row, column)
    return sorted(found)


@pytest.mark.parametrize("kind", KINDS)
def test_every_number_can_be_read_off_the_figure(kind: str) -> None:
    for i, given in enumerate(drawn(kind, 300)):
        board = figure(given, Random(i))
        cells = [(row, column) for row, column, _ in board.glyphs]
        assert len(set(cells)) == len(cells), (given, i)
        assert all(0 <= place < UNITS // 8 for cell in cells for place in cell)
        asked = [] if KINDS[kind].asked == "the perimeter" else ["x"]
        assert labels(board.glyphs) == sorted([*map(str, given.numbers), *asked]), (given, i)


def test_a_figure_shows_its_glyphs_on_white() -> None:
    board = figure(Given("triangle_angle", (45, 65)), Random(1))
    for row, column, _ in board.glyphs:
        cell = board.image.crop((column * 32, row * 32, column * 32 + 32, row * 32 + 32))
        assert cell.convert("L").getextrema()[0] < 64  # black ink
    corners = [board.image.getpixel((0, 0)), board.image.getpixel((255, 0))]
    assert corners == [(255, 255, 255)] * 2


# --- imperfect solutions ---------------------------------------------------------------------------------------------


def read_corpus(count: int = 4000, **noise: float) -> list[tuple[Given, str]]:
    settings = Noise(**({"slip": 0.0, "direct": 0.0, "reflection": 0.0, "textbook": 0.0} | noise))
    random = Random(7)
    return [(given, imperfect_solution(given, random, settings)) for given in islice(draw_corpus(7), count)]


def share(values: list[bool]) -> float:
    return sum(values) / len(values)


def is_right(given: Given, text: str) -> bool:
    return boxed(text) == str(given.answer)


def test_without_slips_every_solution_is_right() -> None:
    for given, text in read_corpus(direct=0.3, reflection=0.3, textbook=0.5):
        assert is_right(given, text)
        assert not false_equations(text)


def test_a_slip_is_a_false_equation_as_often_as_asked() -> None:
    steps = [step for _, text in read_corpus(slip=0.2) for step in EQUATION.findall(text)]
    false = [step for _, text in read_corpus(slip=0.2) for step in false_equations(text)]
    assert len(false) / len(steps) == pytest.approx(0.2, abs=0.02)


def test_only_an_answer_is_given_as_often_as_asked() -> None:
    assert share([not EQUATION.search(text) for _, text in read_corpus(direct=0.3)]) == pytest.approx(0.3, abs=0.03)


def test_a_direct_answer_is_wrong_twice_as_often_as_a_slip() -> None:
    corpus = read_corpus(direct=1.0, slip=0.15)
    assert share([not is_right(given, text) for given, text in corpus]) == pytest.approx(0.3, abs=0.03)


def test_reflections_are_as_many_as_asked_and_three_times_as_many_after_a_mistake() -> None:
    right: list[bool] = []
    wrong: list[bool] = []
    for given, text in read_corpus(reflection=0.2, slip=0.3):
        first = re.split("|".join(map(re.escape, REFLECTIONS)), text)[0]
        ended_right = EQUATION.findall(first)[-1][-1] == str(given.answer)
        (right if ended_right else wrong).append(any(words in text for words in REFLECTIONS))
    assert share(right) == pytest.approx(0.2, abs=0.03)
    assert share(wrong) == pytest.approx(0.6, abs=0.05)


def test_a_reflection_calculates_more_carefully() -> None:
    """Slips are half as frequent in it, so that it corrects more mistakes than it makes."""
    texts = [
        text
        for given, text in read_corpus(reflection=1.0, slip=0.3)
        if len(KINDS[given.kind].steps(*given.numbers)) == 1
    ]
    for part, slips in ((0, 0.3), (1, 0.15)):
        parts = [re.split("|".join(map(re.escape, REFLECTIONS)), text)[part] for text in texts]
        assert share([bool(false_equations(words)) for words in parts]) == pytest.approx(slips, abs=0.04)


# --- other people's data ---------------------------------------------------------------------------------------------

ROW = {"question": "Find x.", "answer": 12, "solution": "So x is \\boxed{12}.", "image": "a.png"}


@pytest.fixture
def source(tmp_path: Path) -> Callable[..., Path]:
    """Write rows (dicts, or a line as it is) to a JSONL file in a folder with the pictures a.png, b.png and c.png."""
    for i, name in enumerate("abc"):
        Image.new("RGB", (30, 20), (10 * i, 0, 0)).save(tmp_path / f"{name}.png")

    def write(*rows: dict[str, Any] | str, name: str = "rows.jsonl") -> Path:
        lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return tmp_path / name

    return write


def rows_of(path: Path, take: tuple[int, int] | None = None) -> JsonlRows:
    return JsonlRows(reader="jsonl", folder=str(path.parent), file=path.name, take=take)


def real(**splits: JsonlRows) -> RealProblems:
    return RealProblems(source="real", shuffle=None, answers="numeric", allow_leaks=(), **splits)


def three_splits(source: Callable[..., Path], **changes: Path) -> RealProblems:
    """A right data set of one row a split, each with a question of its own."""
    files = {
        split: source(
            ROW | {"id": split, "question": f"Find the {split} x.", "image": f"{picture}.png"}, name=f"{split}.jsonl"
        )
        for split, picture in zip(("train", "validation", "test"), "abc", strict=True)
    }
    return real(**{split: rows_of(path) for split, path in (files | changes).items()})


def test_rows_are_read_as_text(source: Callable[..., Path], tmp_path: Path) -> None:
    row = ROW | {"id": 7, "question": "<image>\nWie groß ist x?", "answer": 12.5, "origin": "a further key"}
    (problem,) = read_problems(source(row, ""))
    assert problem.question == "Wie groß ist x?"
    assert (problem.answer, problem.id, problem.image) == ("12.5", "7", tmp_path / "a.png")


def test_a_solution_is_optional(source: Callable[..., Path]) -> None:
    without = {key: value for key, value in ROW.items() if key != "solution"}
    problems = read_problems(source(without | {"id": 1}, ROW | {"id": 2, "solution": None}))
    assert [problem.solution for problem in problems] == ["", ""]


NEEDED = "needed: question, answer, id, image"
BAD_ROWS: dict[str, tuple[dict[str, Any] | str, str]] = {
    "not JSON": ('{"id": 1', "not JSON: Expecting ',' delimiter at column 9"),
    "no object": ("[1, 2]", "a list, not an object with the keys question, answer, id, image"),
    "no answer": (
        {"id": "1", "question": "Find x.", "image": "a.png"},
        f"no 'answer' (keys: id, question, image; {NEEDED})",
    ),
    "an empty question": (ROW | {"id": "1", "question": ""}, "an empty 'question'"),
    "a list for an answer": (ROW | {"id": "1", "answer": [12]}, "'answer' is a list, not a text: [12]"),
    "yes for an answer": (ROW | {"id": "1", "answer": True}, "'answer' is a bool, not a text: True"),
    "a missing image": (
        ROW | {"id": "1", "image": "d.png"},
        "image {folder}/d.png does not exist; paths are relative to the JSONL file",
    ),
    "no image": (
        ROW | {"id": "1", "image": "rows.jsonl"},
        "image {folder}/rows.jsonl cannot be read "
        "(cannot identify image file '{folder}/rows.jsonl'); save it again as PNG",
    ),
}


@pytest.mark.parametrize(("row", "expected"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_bad_row_is_named_with_its_line(
    source: Callable[..., Path], row: dict[str, Any] | str, expected: str, tmp_path: Path
) -> None:
    path = source(ROW | {"id": "good"}, row)
    with pytest.raises(ValueError) as error:
        read_problems(path)
    assert str(error.value) == f"{path}:2: {expected.replace('{folder}', str(tmp_path))}"


def test_a_truncated_image_is_found(source: Callable[..., Path], tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    Image.effect_noise((64, 64), 50).save(picture)
    picture.write_bytes(picture.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"rows\.jsonl:1: image .*a\.png cannot be read"):
        read_problems(source(ROW | {"id": "1"}))


def test_an_id_stands_once(source: Callable[..., Path]) -> None:
    path = source(ROW | {"id": 1}, ROW | {"id": 2}, ROW | {"id": "1"})
    with pytest.raises(ValueError) as error:
        read_problems(path)
    assert str(error.value) == f"{path}:3: id '1' stands on line 1 already; ids must differ"


@pytest.mark.parametrize("rows", [(), ("", " ")])
def test_an_empty_file_is_an_error(source: Callable[..., Path], rows: tuple[str, ...]) -> None:
    path = source(*rows)
    with pytest.raises(ValueError) as error:
        read_problems(path)
    assert str(error.value) == f"{path}: no problems in it; a split needs at least one"


def test_text_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes('{"question": "Größe"}\n'.encode("latin-1"))
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))}\b.*UTF-8"):
        read_problems(path)


def test_all_mistakes_are_reported_and_nothing_is_written(source: Callable[..., Path], tmp_path: Path) -> None:
    train = source(ROW | {"id": 1, "image": "d.png"}, ROW | {"id": 2}, "{", name="bad.jsonl")
    settings = three_splits(source, train=train, test=tmp_path / "none.jsonl")
    before = contents(tmp_path)
    with pytest.raises(ValueError) as error, whole_folder(tmp_path / "out") as folder:
        prepare(settings, folder)
    places = [line.split(": ")[0] for line in str(error.value).splitlines()]
    assert places == [f"{train}:1", f"{train}:3", str(tmp_path / "none.jsonl")]
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"id": "other", "question": "Find  the train x.", "image": "a.png"}, ["train: train", "test: other"]),
        ({"id": "train", "question": "Find y.", "image": "c.png"}, ["'train'", "in train", "in test"]),
    ],
    ids=["the same question and picture", "the same id"],
)
def test_a_problem_in_two_splits_is_an_error(
    source: Callable[..., Path], tmp_path: Path, row: dict[str, Any], named: list[str]
) -> None:
    settings = three_splits(source, test=source(ROW | row, name="twice.jsonl"))
    with pytest.raises(ValueError) as error:
        prepared(settings, tmp_path / "out")
    assert all(name in str(error.value).splitlines()[0] for name in named)


def test_a_problem_in_two_splits_may_be_allowed(source: Callable[..., Path], tmp_path: Path) -> None:
    row = ROW | {"id": "other", "question": "Find the train x.", "image": "a.png"}
    settings = three_splits(source, test=source(row, name="twice.jsonl")).model_copy(update={"allow_leaks": ("other",)})
    folder = prepared(settings, tmp_path / "out")
    assert json.loads((folder / "rows.json").read_text())["duplicates"] == [
        {
            "kind": "exact",
            "split": "train",
            "id": "train",
            "other_split": "test",
            "other_id": "other",
            "allowed": True,
        }
    ]


def taken(path: Path, first_and_last: tuple[int, int] | None, folder: Path) -> list[str]:
    """The ids of the problems that are taken from a file."""
    (folder / "images").mkdir(parents=True)
    rows = rows_of(path, first_and_last)
    return [
        problem.id
        for problem in take(read(rows, "numeric"), rows, real(train=rows, validation=rows, test=rows), folder).problems
    ]


@pytest.mark.parametrize(
    ("cut", "ids"), [(None, range(30)), ((10, 20), range(10, 20)), ((0, 3), range(3)), ((28, 30), range(28, 30))]
)
def test_some_rows_of_a_file(
    source: Callable[..., Path], cut: tuple[int, int] | None, ids: range, tmp_path: Path
) -> None:
    path = source(*(ROW | {"id": i} for i in range(30)))
    assert taken(path, cut, tmp_path / "out") == [str(i) for i in ids]


def test_rows_beyond_the_end_are_an_error(source: Callable[..., Path], tmp_path: Path) -> None:
    path = source(ROW | {"id": 1}, ROW | {"id": 2, "answer": "x"})
    with pytest.raises(ValueError) as error:
        taken(path, (0, 9), tmp_path / "out")
    expected = "rows 0 to 9 are asked for, but of 2 rows 1 are problems (1 x no number: ...)"
    assert str(error.value) == f"{tmp_path}: {expected}"


def transparent(mode: str) -> Image.Image:
    """A black dot at (1, 1) on transparency whose hidden colour is black."""
    image = Image.new("RGBA", (3, 3), (0, 0, 0, 0))
    image.putpixel((1, 1), (0, 0, 0, 255))
    if mode == "P":
        palette = Image.new("P", (3, 3), 0)
        palette.putpalette([0, 0, 0, 0, 0, 0])
        palette.putpixel((1, 1), 1)
        palette.info["transparency"] = 0
        return palette
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(mode: str, source: Callable[..., Path], tmp_path: Path) -> None:
    expected = Image.new("RGB", (3, 3), "white")
    expected.putpixel((1, 1), (0, 0, 0))
    assert on_white(transparent(mode)).tobytes() == expected.tobytes()
    transparent(mode).save(tmp_path / "a.png")
    folder = prepared(three_splits(source), tmp_path / "out")
    (problem,) = read_problems(folder / "train.jsonl")
    with Image.open(problem.image) as stored:
        assert stored.mode == "RGB"
    assert problem.picture().tobytes() == expected.tobytes()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK"])
def test_an_opaque_picture_keeps_its_colours(mode: str) -> None:
    image = Image.new("RGB", (3, 3), "white")
    image.putpixel((1, 1), (0, 0, 0))
    assert on_white(image.convert(mode)).tobytes() == image.tobytes()


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_sixteen_bits_a_pixel_stay_gray(mode: str) -> None:
    values = np.array([[0, 1000, 32768, 65535]], dtype=np.uint16 if mode == "I;16" else np.int32)
    gray = [pixel[0] for pixel in on_white(Image.fromarray(values)).getdata()]
    assert gray == [0, 4, 128, 255]


def test_a_photo_stands_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (60, 30), "red").save(tmp_path / "photo.jpg", exif=exif)
    with Image.open(tmp_path / "photo.jpg") as photo:
        assert on_white(photo).size == (30, 60)
