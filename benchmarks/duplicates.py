"""Which pictures count as the same? `python benchmarks/duplicates.py FILES.jsonl...`, to choose HASH_SIZE and MAX_BITS.

For every file: how far the hash of a picture moves when it is saved again (median, 95th, 99th percentile and maximum,
in bits, and the share within MAX_BITS: hits), and how near different pictures come (false alarms): of the same question
and answer, and of the same answer alone. The nearest pairs are named, to be looked at. Then the hardest case: generated
figures that differ in nothing but their numbers.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable
from io import BytesIO
from itertools import combinations
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, ImageOps

from stages.data.duplicates import HASH_SIZE, MAX_BITS, View, distance, view, words
from stages.data.geometry.problems import Given, draw_given, picture
from stages.data.problem import read_problems


def jpeg(image: Image.Image, quality: int = 75) -> Image.Image:
    file = BytesIO()
    image.save(file, "jpeg", quality=quality)
    return Image.open(file).convert("RGB")


def scaled(image: Image.Image, factor: float) -> Image.Image:
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)


def padded(image: Image.Image, border: int | tuple[int, int, int, int]) -> Image.Image:
    return ImageOps.expand(image, border, "white")


AGAIN: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG, quality 75": jpeg,
    "rescaled x 0.5": lambda image: scaled(image, 0.5),
    "rescaled x 1.5": lambda image: scaled(image, 1.5),
    "margin of 4 pixels": lambda image: padded(image, 4),
    "margin of 12 pixels": lambda image: padded(image, 12),
    "8 pixels on the left": lambda image: padded(image, (8, 0, 0, 0)),
    "16 colours": lambda image: image.quantize(16).convert("RGB"),
    "margin of 8, JPEG 75": lambda image: jpeg(padded(image, 8)),
    "x 0.5, JPEG 50": lambda image: jpeg(scaled(image, 0.5), 50),
    "8 on the left, x 0.5, JPEG 75": lambda image: jpeg(scaled(padded(image, (8, 0, 0, 0)), 0.5)),
}


def told(distances: list[int]) -> str:
    percentiles = "/".join(f"{bits:.0f}" for bits in np.percentile(distances, [50, 95, 99, 100], method="higher"))
    return f"{np.mean(np.array(distances) <= MAX_BITS):7.1%}  {percentiles}"


def hits(pictures: list[Image.Image], views: list[View]) -> None:
    for name, again in AGAIN.items():
        print(f"  {name:30} {told([distance(view(again(p)), v) for p, v in zip(pictures, views, strict=True)])}")


def alarms(path: Path) -> None:
    problems = read_problems(path)
    pictures = [problem.picture() for problem in problems]
    views = [view(picture) for picture in pictures]
    print(f"{path}: {len(problems)} problems")
    hits(pictures, views)
    answered = defaultdict[str, list[int]](list)
    for row, problem in enumerate(problems):
        answered[words(problem.answer)].append(row)
    near = sorted(
        (distance(views[a], views[b]), words(problems[a].question) == words(problems[b].question), a, b)
        for rows in answered.values()
        for a, b in combinations(rows, 2)
    )
    for name, pairs in (("same question and answer", [pair for pair in near if pair[1]]), ("same answer", near)):
        print(f"  {name}: {len(pairs)} pairs, {sum(pair[0] <= MAX_BITS for pair in pairs)} alarms; nearest:")
        for bits, _, a, b in pairs[:5]:
            print(f"    {bits:4} {problems[a].id} {problems[b].id}")


def other_numbers() -> None:
    givens = [*draw_given("train", 1000, 0), *draw_given("test", 500, 0)]
    same = defaultdict[tuple[str, int], list[Given]](list)
    for given in givens:
        same[given.kind, given.answer].append(given)
    pairs = [pair for alike in same.values() for pair in zip(alike[::2], alike[1::2], strict=False)]
    compared("other numbers, same answer", pairs)
    one_more = [Given(given.kind, (*given.numbers[:-1], given.numbers[-1] + 1)) for given in givens]
    compared("one number changed by 1, so another answer", list(zip(givens, one_more, strict=True)))


def compared(name: str, pairs: list[tuple[Given, Given]]) -> None:
    views = [[view(picture(given, Random(f"layout {i}"))) for given in pair] for i, pair in enumerate(pairs)]
    bits = [distance(one, other) for one, other in views]
    percentiles = "/".join(str(n) for n in np.percentile(bits, [0, 1, 5, 50], method="lower"))
    print(f"the same figure, {name}: {len(bits)} pairs, {sum(n <= MAX_BITS for n in bits)} as near as a copy;", end=" ")
    print(f"minimum, 1st, 5th percentile, median: {percentiles}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="*", help="problems, as a study prepares them")
    files = parser.parse_args().files
    if missing := [file for file in files if not file.is_file()]:
        parser.error(f"{missing[0]} is not there")
    print(f"{HASH_SIZE} x {HASH_SIZE} bits, the same picture up to {MAX_BITS}")
    for file in files:
        alarms(file)
    other_numbers()


if __name__ == "__main__":
    main()
