"""The kinds of geometry problem: what is given, what is asked, how it is solved and how it is drawn.

Seven kinds are practised (train and validation), six are only tested: the test is out of distribution, as MathVerse is
for mm_math5k. A kind is one entry of `KINDS`; everything else (splits, questions, solutions, pictures) follows from it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random
from typing import Literal

from stages.data.geometry.drawing import Board, between, towards

Operand = int | Literal["previous"]
Step = tuple[Operand, Literal["+", "-"], Operand]
Labels = list[str]

PREVIOUS: Literal["previous"] = "previous"


@dataclass(frozen=True)
class Kind:
    """One kind of problem.

    Attributes:
        draw_numbers: draws the given numbers (degrees or lengths).
        steps: the calculation; the last result is the answer.
        given: how a solution restates the numbers, with {0}, {1}, ... for them.
        theorems: what the solution rests on, in two wordings.
        questions: the question with all numbers in the text, in two wordings.
        draw: draws the figure with the given labels, one a number and the last for what is asked.
        asked: "x" or "the perimeter".
    """

    draw_numbers: Callable[[Random], tuple[int, ...]]
    steps: Callable[..., list[Step]]
    given: str
    theorems: tuple[str, str]
    questions: tuple[str, str]
    draw: Callable[[Board, Labels], None]
    asked: Literal["x", "the perimeter"] = "x"


# --- numbers -------------------------------------------------------------------------------------------------------


def angles(n: int, low: int, high: int, total: int) -> Callable[[Random], tuple[int, ...]]:
    """n angles, multiples of 5 degrees in [low, high], that leave at least 20 degrees of `total`."""

    def draw(random: Random) -> tuple[int, ...]:
        while True:
            numbers = tuple(5 * random.randint(low // 5, high // 5) for _ in range(n))
            if sum(numbers) <= total - 20:
                return numbers

    return draw


def lengths(n: int, low: int, high: int, polygon: bool = False) -> Callable[[Random], tuple[int, ...]]:
    """n lengths in [low, high]; as a polygon, no side is as long as the others together."""

    def draw(random: Random) -> tuple[int, ...]:
        while True:
            numbers = tuple(random.randint(low, high) for _ in range(n))
            if not polygon or 2 * max(numbers) < sum(numbers):
                return numbers

    return draw


def _exterior_and_remote(random: Random) -> tuple[int, int]:
    remote = 5 * random.randint(4, 20)
    return remote + 5 * random.randint(4, (160 - remote) // 5), remote


def _whole_and_parts(n: int, high: int) -> Callable[[Random], tuple[int, ...]]:
    def draw(random: Random) -> tuple[int, ...]:
        parts = tuple(random.randint(2, high) for _ in range(n))
        return sum(parts) + random.randint(2, high), *parts

    return draw


def _isosceles(random: Random) -> tuple[int, int]:
    leg = random.randint(4, 25)
    return leg, random.randint(2, min(2 * leg - 1, 25))


# --- calculations --------------------------------------------------------------------------------------------------


def _minus(total: int, *numbers: int) -> list[Step]:
    return [(total, "-", numbers[0]), *((PREVIOUS, "-", n) for n in numbers[1:])]


def _plus(first: int, *numbers: int) -> list[Step]:
    return [(first, "+", numbers[0]), *((PREVIOUS, "+", n) for n in numbers[1:])]


def results(steps: Iterable[Step]) -> list[tuple[int, str, int, int]]:
    """Every step as (left, operator, right, result), the previous result put in its place."""
    done: list[tuple[int, str, int, int]] = []
    for left, operator, right in steps:
        a = done[-1][3] if left == PREVIOUS else left
        b = done[-1][3] if right == PREVIOUS else right
        done.append((a, operator, b, a + b if operator == "+" else a - b))
    return done


# --- figures -------------------------------------------------------------------------------------------------------


def _unknown_anywhere(board: Board, labels: Labels) -> Labels:
    """The numbers in their order, the unknown (the last label) put anywhere among them."""
    at = board.random.randrange(len(labels))
    return [*labels[:-1][:at], labels[-1], *labels[:-1][at:]]


def _triangle_corners(board: Board, labels: Labels) -> None:
    a, b, c = board.point(4, 58), board.point(60, 58), (32 + board.random.randint(-8, 8), 5)
    board.lines(a, b, c, closed=True)
    places = [between(a, (32, 42), 0.5), between(b, (32, 42), 0.5), (c[0], 24)]
    board.labels(places, _unknown_anywhere(board, labels))


def _exterior(board: Board, labels: Labels) -> None:
    """Labels: remote angle at the top, remote angle at the base, exterior angle."""
    a, b, c = board.point(4, 56), board.point(40, 56, 1), board.point(24, 6)
    board.lines(a, b, c, closed=True)
    beyond = board.point(63, 56, 0)[0], b[1]
    board.lines(b, beyond)
    board.label((c[0], 24), labels[0])
    board.label((between(a, c, 0.2)[0], 50), labels[1])
    board.label((between(b, beyond, 0.5)[0], 44), labels[2])


def _remote(board: Board, labels: Labels) -> None:
    """Labels: exterior angle, remote angle, the unknown remote angle."""
    exterior, *remote = labels
    _exterior(board, [*_unknown_anywhere(board, remote), exterior])


def _fan(board: Board, labels: Labels, sweep: float) -> None:
    """Angles side by side that fill a straight (180) or a right (90) angle."""
    right = sweep == 90
    origin = board.point(8 if right else 32, 58, 1)
    turn = -1 if board.mirrored else 1
    zero = 180 if board.mirrored else 0
    radius = 52 if right else 30
    rays = [zero + turn * sweep * share for share in (0, 0.33, 0.67, 1)]
    for ray in rays:
        board.lines(origin, towards(origin, ray, radius * (1 if ray in (rays[0], rays[-1]) else 1.15)))
    if right:
        corner = [towards(origin, rays[0], 5), towards(origin, zero + turn * 45, 7.07), towards(origin, rays[-1], 5)]
        board.lines(*corner)
    places = [towards(origin, zero + turn * sweep * share, 40 if right else 23) for share in (1 / 6, 1 / 2, 5 / 6)]
    board.labels(places, _unknown_anywhere(board, labels))


def _straight_line(board: Board, labels: Labels) -> None:
    _fan(board, labels, 180)


def _right_angle(board: Board, labels: Labels) -> None:
    _fan(board, labels, 90)


def _segment(board: Board, above: Labels, below: str) -> None:
    """A line cut into parts, their labels above it, the whole's label below."""
    n, y = len(above), 34 + board.random.randint(-5, 5)
    ends = [(3, y), *((64 * i / n + board.random.randint(-3, 3), y) for i in range(1, n)), (61, y)]
    board.lines(ends[0], ends[-1])
    for x, _ in ends:
        board.lines((x, y - 3), (x, y + 3))
    # Of three labels the middle one stands higher: side by side, "11" and "6" would read "116".
    heights = [10, 18, 10] if n == 3 else [10] * n
    places = [(between(ends[i], ends[i + 1])[0], y - height) for i, height in enumerate(heights)]
    board.labels(places, above)
    board.lines((3, y + 8), (3, y + 11), (61, y + 11), (61, y + 8))
    board.label((32, y + 17), below)


def _segment_sum(board: Board, labels: Labels) -> None:
    _segment(board, labels[:-1], labels[-1])


def _segment_rest(board: Board, labels: Labels) -> None:
    """Labels: the whole, its known parts, the unknown part."""
    whole, *parts = labels
    _segment(board, _unknown_anywhere(board, parts), whole)


def _triangle_sides(board: Board, labels: Labels) -> None:
    a, b, c = board.point(10, 46), board.point(54, 46), (32 + board.random.randint(-4, 4), 6)
    board.lines(a, b, c, closed=True)
    left, right = sorted((a, b))
    board.labels([(between(left, c)[0] - 8, 25), (between(right, c)[0] + 8, 25), (32, 56)], labels)


def _isosceles_sides(board: Board, labels: Labels) -> None:
    """Labels: leg, base. The legs carry ticks."""
    a, b, c = board.point(12, 46, 1), board.point(52, 46, 1), (32, 6)
    board.lines(a, b, c, closed=True)
    board.tick(a, c)
    board.tick(b, c)
    board.label((between(a, c)[0] + (9 if board.mirrored else -9), 25), labels[0])
    board.label((32, 56), labels[1])


def _rectangle(board: Board, labels: Labels) -> None:
    (left, top), (right, bottom) = sorted((board.point(4, 10), board.point(42, 44)))
    top, bottom = sorted((top, bottom))
    board.lines((left, top), (right, top), (right, bottom), (left, bottom), closed=True)
    beside = right + 10 if right < 48 else left - 10
    board.labels([((left + right) / 2, bottom + 9), (beside, (top + bottom) / 2)], labels)


def _quadrilateral_corners(board: Board, labels: Labels) -> None:
    corners = [board.point(3, 60, 1), board.point(61, 60, 1), board.point(57, 5), board.point(8, 5)]
    board.lines(*corners, closed=True)
    board.labels([between(corner, (32, 32), 0.3) for corner in corners], _unknown_anywhere(board, labels))


def _quadrilateral_sides(board: Board, labels: Labels) -> None:
    corners = [board.point(13, 50), board.point(51, 50), board.point(47, 14), board.point(15, 12)]
    board.lines(*corners, closed=True)
    middles = [between(a, b) for a, b in zip(corners, [*corners[1:], corners[0]], strict=True)]
    board.labels([between((32, 32), middle, 1.5) for middle in middles], labels)


# --- the kinds -----------------------------------------------------------------------------------------------------

PRACTISED: dict[str, Kind] = {
    "triangle_angle": Kind(
        draw_numbers=angles(2, 20, 110, 180),
        steps=lambda a, b: _minus(180, a, b),
        given="The angles are {0} and {1}.",
        theorems=("The angles of a triangle add up to 180.", "A triangle has 180 degrees."),
        questions=(
            "Two angles of a triangle are {0} and {1}. Find the third angle x.",
            "A triangle has the angles {0}, {1} and x. What is x?",
        ),
        draw=_triangle_corners,
    ),
    "straight_line": Kind(
        draw_numbers=angles(2, 20, 120, 180),
        steps=lambda a, b: _minus(180, a, b),
        given="The angles are {0} and {1}.",
        theorems=("The angles on a straight line add up to 180.", "A straight angle has 180 degrees."),
        questions=(
            "Three angles on a straight line are {0}, {1} and x. Find x.",
            "The angles {0} and {1} leave an angle x on a straight line. What is x?",
        ),
        draw=_straight_line,
    ),
    "exterior_angle": Kind(
        draw_numbers=angles(2, 20, 100, 180),
        steps=lambda a, b: _plus(a, b),
        given="The remote angles are {0} and {1}.",
        theorems=("The exterior angle is the sum of the remote angles.", "Two remote angles make the exterior angle."),
        questions=(
            "Two angles of a triangle are {0} and {1}. Find the exterior angle x at the third corner.",
            "The remote angles of a triangle are {0} and {1}. What is the exterior angle x?",
        ),
        draw=_exterior,
    ),
    "segment_sum": Kind(
        draw_numbers=lengths(2, 2, 30),
        steps=lambda a, b: _plus(a, b),
        given="The parts are {0} and {1}.",
        theorems=("The whole is the sum of its parts.", "The parts make up the whole."),
        questions=(
            "A segment has the parts {0} and {1}. Find its whole length x.",
            "The parts {0} and {1} make a segment. How long is the whole segment x?",
        ),
        draw=_segment_sum,
    ),
    "segment_part": Kind(
        draw_numbers=_whole_and_parts(1, 30),
        steps=lambda whole, part: _minus(whole, part),
        given="The whole is {0} and a part is {1}.",
        theorems=("The part is the whole minus the rest.", "Take the known part away from the whole."),
        questions=(
            "A segment of length {0} has a part of length {1}. Find the other part x.",
            "A whole segment is {0} and one part is {1}. How long is the other part x?",
        ),
        draw=_segment_rest,
    ),
    "triangle_perimeter": Kind(
        draw_numbers=lengths(3, 2, 20, polygon=True),
        steps=_plus,
        given="The sides are {0}, {1} and {2}.",
        theorems=("The perimeter is the sum of the sides.", "Add all the sides."),
        questions=(
            "A triangle has sides {0}, {1} and {2}. Find the perimeter.",
            "The sides of a triangle are {0}, {1} and {2}. What is the perimeter?",
        ),
        draw=_triangle_sides,
        asked="the perimeter",
    ),
    "rectangle_perimeter": Kind(
        draw_numbers=lengths(2, 2, 20),
        steps=lambda a, b: [(a, "+", b), (PREVIOUS, "+", PREVIOUS)],
        given="The sides are {0} and {1}.",
        theorems=("The perimeter is twice the sum of the sides.", "A rectangle has each side twice."),
        questions=(
            "A rectangle has sides {0} and {1}. Find the perimeter.",
            "The sides of a rectangle are {0} and {1}. What is the perimeter?",
        ),
        draw=_rectangle,
        asked="the perimeter",
    ),
}

UNPRACTISED: dict[str, Kind] = {
    "right_angle": Kind(
        draw_numbers=angles(2, 10, 60, 100),
        steps=lambda a, b: _minus(90, a, b),
        given="The angles are {0} and {1}.",
        theorems=("The parts of a right angle add up to 90.", "A right angle has 90 degrees."),
        questions=(
            "Three angles in a right angle are {0}, {1} and x. Find x.",
            "The angles {0} and {1} leave an angle x in a right angle. What is x?",
        ),
        draw=_right_angle,
    ),
    "quadrilateral_angle": Kind(
        draw_numbers=angles(3, 55, 130, 360),
        steps=lambda a, b, c: _minus(360, a, b, c),
        given="The angles are {0}, {1} and {2}.",
        theorems=("The angles of a quadrilateral add up to 360.", "A quadrilateral has 360 degrees."),
        questions=(
            "Three angles of a quadrilateral are {0}, {1} and {2}. Find the fourth angle x.",
            "A quadrilateral has the angles {0}, {1}, {2} and x. What is x?",
        ),
        draw=_quadrilateral_corners,
    ),
    "remote_angle": Kind(
        draw_numbers=_exterior_and_remote,
        steps=lambda exterior, remote: _minus(exterior, remote),
        given="The exterior angle is {0} and a remote angle is {1}.",
        theorems=(
            "The remote angle is the exterior angle minus the other.",
            "Take the known remote angle away from the exterior angle.",
        ),
        questions=(
            "An exterior angle of a triangle is {0} and a remote angle is {1}. Find the other remote angle x.",
            "A triangle has an exterior angle {0} and the remote angles {1} and x. What is x?",
        ),
        draw=_remote,
    ),
    "isosceles_perimeter": Kind(
        draw_numbers=_isosceles,
        steps=lambda leg, base: [(leg, "+", leg), (PREVIOUS, "+", base)],
        given="The legs are {0} and the base is {1}.",
        theorems=("The perimeter is two legs and the base.", "An isosceles triangle has two equal legs."),
        questions=(
            "An isosceles triangle has legs {0} and base {1}. Find the perimeter.",
            "The legs of an isosceles triangle are {0} and the base is {1}. What is the perimeter?",
        ),
        draw=_isosceles_sides,
        asked="the perimeter",
    ),
    "quadrilateral_perimeter": Kind(
        draw_numbers=lengths(4, 2, 15, polygon=True),
        steps=_plus,
        given="The sides are {0}, {1}, {2} and {3}.",
        theorems=("The perimeter is the sum of the four sides.", "Add all four sides."),
        questions=(
            "A quadrilateral has sides {0}, {1}, {2} and {3}. Find the perimeter.",
            "The sides of a quadrilateral are {0}, {1}, {2} and {3}. What is the perimeter?",
        ),
        draw=_quadrilateral_sides,
        asked="the perimeter",
    ),
    "segment_middle": Kind(
        draw_numbers=_whole_and_parts(2, 15),
        steps=lambda whole, a, b: _minus(whole, a, b),
        given="The whole is {0} and parts are {1} and {2}.",
        theorems=("The last part is the whole minus the others.", "Take both known parts away from the whole."),
        questions=(
            "A segment of length {0} has the parts {1} and {2}. Find the last part x.",
            "A whole segment is {0} and two parts are {1} and {2}. How long is the last part x?",
        ),
        draw=_segment_rest,
    ),
}

KINDS: dict[str, Kind] = PRACTISED | UNPRACTISED
