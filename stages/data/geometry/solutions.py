"""How the generated problems are solved in words: golden solutions for SFT, imperfect ones for pre-training.

A golden solution is a textbook's: what is given, the theorem, the calculation, the answer; always right.
The imperfect solutions are what a base model has read before it is fine-tuned: sometimes only an answer, sometimes
with a slip in the calculation, sometimes with a reflection that does the calculation again, more carefully. So
reflection exists before RL, as it does in Qwen; and a part of what RL gains is the un-learning of this noise.
"""

from random import Random

from stages.config import Noise
from stages.data.geometry.kinds import KINDS, results
from stages.data.geometry.problems import Given

INTRODUCTIONS = ("I see {}.", "The figure shows {}.", "We have {}.", "Given {}.")
CONCLUSIONS = ("So {asked} is \\boxed{{{answer}}}.", "The answer is \\boxed{{{answer}}}.", "\\boxed{{{answer}}}")
REFLECTIONS = (
    "Wait, let me re-check.",
    "Wait, check again.",
    "Let me verify.",
    "Let me re-examine.",
    "Wait, let me rethink.",
)


def listed(numbers: tuple[int, ...]) -> str:
    """1, 2 and 3."""
    return " and ".join(filter(None, (", ".join(map(str, numbers[:-1])), str(numbers[-1]))))


def golden_solution(given: Given, random: Random) -> str:
    """The textbook solution: given, theorem, calculation, boxed answer."""
    kind = KINDS[given.kind]
    steps = [f"{a}{op}{b}={result}." for a, op, b, result in results(kind.steps(*given.numbers))]
    conclusion = random.choice(CONCLUSIONS[:2]).format(asked=kind.asked, answer=given.answer)
    return " ".join((kind.given.format(*given.numbers), random.choice(kind.theorems), *steps, conclusion))


def _calculation(given: Given, random: Random, slip: float) -> tuple[list[str], int]:
    """Steps in words and the number they end with; a step slips with probability `slip`."""
    words: list[str] = []
    previous = 0
    for left, operator, right in KINDS[given.kind].steps(*given.numbers):
        a = previous if left == "previous" else left
        b = previous if right == "previous" else right
        result = abs(a + b if operator == "+" else a - b)
        if random.random() < slip:
            result = _slipped(result, random)
        words.append(f"{a}{operator}{b}={result}.")
        previous = result
    return words, previous


def _slipped(number: int, random: Random) -> int:
    error = random.choice((1, -1, 2, -2, 10, -10))
    return number + error if number + error > 0 else number + abs(error)


def imperfect_solution(given: Given, random: Random, noise: Noise) -> str:
    """A solution as the pre-training corpus has it: right or wrong, terse or wordy, reflective or not."""
    kind = KINDS[given.kind]

    def concluded(answer: int) -> str:
        return random.choice(CONCLUSIONS).format(asked=kind.asked, answer=answer)

    if random.random() < noise.direct:
        guess = given.answer if random.random() > 2 * noise.slip else _slipped(given.answer, random)
        return concluded(guess)
    if random.random() < noise.textbook:
        parts = [kind.given.format(*given.numbers), random.choice(kind.theorems)]
    else:
        parts = [random.choice(INTRODUCTIONS).format(listed(given.numbers))]
    steps, answer = _calculation(given, random, noise.slip)
    parts += steps
    if random.random() < noise.reflection * (1 if answer == given.answer else 3):
        steps, answer = _calculation(given, random, noise.slip / 2)
        parts += [random.choice(REFLECTIONS), *steps]
    return " ".join((*parts, concluded(answer)))
