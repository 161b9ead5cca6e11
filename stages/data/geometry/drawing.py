"""A small drawing board for geometry figures.

Coordinates are in units of a 64 x 64 board, x to the right and y downwards; the picture is drawn at 4 pixels a unit.
Labels stand on a lattice of 8 x 8 units, one glyph a cell: the tiny models see 64 x 64 pixels in patches of 8, and a
glyph that straddles two patches is what they could not learn to read.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from random import Random

from PIL import Image, ImageDraw, ImageFont

UNITS = 64
CELL = 8
SCALE = 4
LINE, INK, PAPER = (120, 130, 150), (0, 0, 0), (255, 255, 255)

Point = tuple[float, float]


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=9 * SCALE)


def between(a: Point, b: Point, share: float = 0.5) -> Point:
    """The point that lies `share` of the way from a to b."""
    return a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1])


def towards(origin: Point, degrees: float, length: float) -> Point:
    """The point at `length` from origin, counter-clockwise from the positive x axis."""
    angle = math.radians(degrees)
    return origin[0] + length * math.cos(angle), origin[1] - length * math.sin(angle)


@dataclass
class Board:
    """One figure: draw lines and arcs first, labels last (a label clears the paper under it).

    Attributes:
        random: decides the jitter of points and labels, and whether the figure is mirrored.
        glyphs: (row, column, character) of every glyph drawn, on the 8 x 8 lattice.
    """

    random: Random
    glyphs: list[tuple[int, int, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.image = Image.new("RGB", (UNITS * SCALE, UNITS * SCALE), PAPER)
        self._draw = ImageDraw.Draw(self.image)
        self.mirrored = self.random.random() < 0.5

    def point(self, x: float, y: float, jitter: int = 2) -> Point:
        """A point of the figure, moved by up to `jitter` units, mirrored if this figure is."""
        x += self.random.randint(-jitter, jitter)
        y += self.random.randint(-jitter, jitter)
        return (UNITS - x if self.mirrored else x), y

    def lines(self, *points: Point, closed: bool = False) -> None:
        path = [(x * SCALE, y * SCALE) for x, y in (*points, *(points[:1] if closed else ()))]
        self._draw.line(path, fill=LINE, width=SCALE, joint="curve")

    def tick(self, a: Point, b: Point, size: float = 2.5) -> None:
        """A short stroke across the middle of a-b: sides with a tick are equal."""
        (x, y), length = between(a, b), math.dist(a, b)
        dx, dy = size * (b[1] - a[1]) / length, -size * (b[0] - a[0]) / length
        self.lines((x - dx, y - dy), (x + dx, y + dy))

    def label(self, p: Point, text: object) -> None:
        """Write text in the lattice cells nearest to p, as a whole moved by at most one unit."""
        glyphs = str(text)
        # Half a cell always rounds up: rounding to even would put labels one cell apart into the same row.
        column = math.floor((p[0] - CELL / 2 * len(glyphs)) / CELL + 0.5)
        row = math.floor((p[1] - CELL / 2) / CELL + 0.5)
        column = min(max(column, 0), UNITS // CELL - len(glyphs))
        row = min(max(row, 0), UNITS // CELL - 1)
        dx, dy = (self.random.choice((-0.75, 0.0, 0.75)) for _ in range(2))
        left, top = column * CELL * SCALE, row * CELL * SCALE
        self._draw.rectangle((left, top, left + len(glyphs) * CELL * SCALE - 1, top + CELL * SCALE - 1), fill=PAPER)
        for i, glyph in enumerate(glyphs):
            self.glyphs.append((row, column + i, glyph))
            centre = ((column + i + 0.5) * CELL + dx) * SCALE, ((row + 0.5) * CELL + dy) * SCALE
            self._draw.text(centre, glyph, fill=INK, font=_font(), anchor="mm")

    def labels(self, places: Sequence[Point], texts: list[str]) -> None:
        """Label places in reading order, top to bottom and left to right, so that the texts' order can be seen."""
        rows = sorted(places, key=lambda p: (round(p[1] / (2 * CELL)), p[0]))
        for place, text in zip(rows, texts, strict=True):
            self.label(place, text)
