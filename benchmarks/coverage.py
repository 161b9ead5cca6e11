"""How often does a 95 % interval contain the true difference? `python benchmarks/coverage.py [--studies N]`.

With --detectable instead: the smallest true difference that is found with a power of 80 %, by problems and seeds.
With --size: how often p is below 0.05, 0.005 and 0.001 where there is no difference.

Simulates studies whose truth is known and prints, for each kind of study, in how many percent of them it is in the
interval of `stages.evaluation.statistics`, and in that of the plain hierarchical bootstrap, which resamples problems
and seeds and takes percentiles.
"""

import argparse
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from stages.config import Statistics
from stages.evaluation.statistics import Arm, Contrast, draws, estimate, percentiles, reseeded

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Truth:
    """A population of problems and of seeds, and a study that samples it.

    A sample of an answer is right with probability Φ(ability + difficulty + seed + interaction), all normal; a problem
    is solved if any of its samples is right.

    Attributes:
        problems, seeds: of the study.
        over: seeds of the second method, or None for an untrained model, which is evaluated once.
        accuracy: expected share of problems solved, of the two methods.
        samples: of each problem.
        difficulty, seed, interaction: standard deviations, on the probit scale.
        correlation: of a problem's difficulty for the two methods.
    """

    problems: int = 100
    seeds: int = 3
    over: int | None = 3
    accuracy: tuple[float, float] = (0.35, 0.3)
    samples: int = 1
    difficulty: float = 1.0
    seed: float = 0.0
    interaction: float = 0.0
    correlation: float = 0.9

    @property
    def difference(self) -> float:
        return self.accuracy[0] - self.accuracy[1]

    def draw(self, rng: np.random.Generator) -> tuple[Array, Array]:
        """Which problems each seed of the two methods solves, [S, P] each."""
        shared, *own = rng.standard_normal((3, self.problems))
        mix = np.sqrt(self.correlation), np.sqrt(1 - self.correlation)
        difficulty = [self.difficulty * (mix[0] * shared + mix[1] * each) for each in own]
        first = self._solved(rng, self.accuracy[0], self.seeds, self.seed, difficulty[0])
        is_trained = self.over is not None
        second = self._solved(rng, self.accuracy[1], self.over or 1, self.seed if is_trained else 0.0, difficulty[1])
        return first, second

    def _solved(self, rng: np.random.Generator, accuracy: float, seeds: int, seed: float, difficulty: Array) -> Array:
        spread = float(np.sqrt(self.difficulty**2 + seed**2 + self.interaction**2))
        latent = _ability(accuracy, spread, self.samples) + difficulty + seed * rng.standard_normal((seeds, 1))
        latent = latent + self.interaction * rng.standard_normal((seeds, self.problems))
        return (rng.random(latent.shape) < _any(latent, self.samples)).astype(float)


def _any(latent: Array, samples: int) -> Array:
    return 1 - (1 - special.ndtr(latent)) ** samples


@cache
def _ability(accuracy: float, spread: float, samples: int) -> float:
    """Which ability has this expected accuracy, by Gauss and Hermite's quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()
    return optimize.brentq(lambda a: float(weights @ _any(a + spread * nodes, samples)) - accuracy, -30, 30)


def contrast(first: Array, second: Array, is_trained: bool, settings: Statistics, rng: np.random.Generator) -> Contrast:
    """A study's contrast; every study has bootstrap samples of its own."""
    problems = first.shape[1]
    counts = draws(problems, settings.replicates, rng)
    arms = [counts @ solved.T / problems for solved in (first, second)]
    return Contrast(0, Arm(arms[0], True, problems), Arm(arms[1], is_trained, problems))


def studies(truth: Truth, number: int, settings: Statistics, seed: int = 0) -> Iterator[Contrast]:
    """Simulated studies."""
    rng = np.random.default_rng(seed)
    for _ in range(number):
        yield contrast(*truth.draw(rng), truth.over is not None, settings, rng)


def covered(truth: Truth, number: int, settings: Statistics, seed: int = 0) -> tuple[float, float]:
    """Share of intervals that have the truth in them: ours, and the plain bootstrap's."""
    rng = np.random.default_rng(seed)
    ours, plain = [], []
    for study in studies(truth, number, settings, seed):
        ours.append(estimate([study], settings).interval(settings.confidence, -1.0, 1.0))
        means = [reseeded(arm, rng).mean(axis=1) for arm in study.arms]
        plain.append(percentiles(means[0] - means[1], settings.confidence))
    return _share(truth.difference, ours), _share(truth.difference, plain)


def _share(difference: float, intervals: list[tuple[float, float]]) -> float:
    low, high = np.array(intervals).T
    return float(((low <= difference + 1e-12) & (difference - 1e-12 <= high)).mean())


VARIATION = {
    "none": {"seed": 0.0, "interaction": 0.0},
    "seeds, a little": {"seed": 0.1, "interaction": 0.0},
    "seeds, much": {"seed": 0.4, "interaction": 0.0},
    "interaction": {"seed": 0.0, "interaction": 1.0},
    "both": {"seed": 0.2, "interaction": 1.0},
}
ACCURACY = {
    "0.35 – 0.30": {"accuracy": (0.35, 0.30), "samples": 1},
    "0.65 – 0.60, pass@8": {"accuracy": (0.65, 0.60), "samples": 8},
    "0.97 – 0.97": {"accuracy": (0.97, 0.97), "samples": 1},
    "0.97 – 0.90": {"accuracy": (0.97, 0.90), "samples": 1},
}


def print_detectable(number: int, settings: Statistics) -> None:
    """The median over simulated studies."""
    print("| varies | over | problems | 3 seeds | 5 seeds | 10 seeds |\n|---|---|--:|--:|--:|--:|")
    for variation, trained, problems in itertools.product(VARIATION, (True, False), (100, 200, 500, 1000)):
        cells = []
        for seeds in (3, 5, 10):
            truth = replace(Truth(problems, seeds, seeds if trained else None), **VARIATION[variation])
            found = [estimate([study], settings) for study in studies(truth, number, settings)]
            least = float(np.median([each.detectable(settings.confidence, settings.power) for each in found]))
            cells.append(f"{100 * least:.0f}")
        over = "trained" if trained else "untrained"
        print(f"| {variation} | {over} | {problems} | {' | '.join(cells)} |", flush=True)


LEVELS = (0.05, 0.005, 0.001)


def print_sizes(number: int, settings: Statistics) -> None:
    """Percent of studies of two equal methods whose p is below each level."""
    print(f"| varies | over | problems | {' | '.join(f'p < {level}' for level in LEVELS)} |\n|---|---|--:|--:|--:|--:|")
    for variation, trained, problems in itertools.product(VARIATION, (True, False), (100, 400)):
        truth = replace(Truth(problems, 3, 3 if trained else None, (0.35, 0.35)), **VARIATION[variation])
        found = np.array([estimate([study], settings).p() for study in studies(truth, number, settings)])
        cells = " | ".join(f"{100 * (found < level).mean():.2f}" for level in LEVELS)
        print(f"| {variation} | {'trained' if trained else 'untrained'} | {problems} | {cells} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--replicates", type=int, default=300)
    parser.add_argument("--detectable", action="store_true")
    parser.add_argument("--size", action="store_true")
    arguments = parser.parse_args()
    settings = Statistics(confidence=0.95, power=0.8, replicates=arguments.replicates, seed=0)
    if arguments.size:
        print_sizes(arguments.studies, settings)
        return
    if arguments.detectable:
        print_detectable(arguments.studies, settings)
        return
    sizes = list(itertools.product((100, 400), (3, 5)))
    print(
        "| accuracy | varies | over | "
        + " | ".join(f"{problems} problems, {seeds} seeds" for problems, seeds in sizes)
        + " |"
    )
    print("|---|---|---" + "|--:" * len(sizes) + "|")
    all_ours, all_plain = [], []
    for accuracy, variation, trained in itertools.product(ACCURACY, VARIATION, (True, False)):
        cells = []
        for problems, seeds in sizes:
            truth = Truth(problems, seeds, seeds if trained else None)
            truth = replace(truth, **ACCURACY[accuracy], **VARIATION[variation])
            ours, plain = covered(truth, arguments.studies, settings)
            all_ours.append(ours)
            all_plain.append(plain)
            cells.append(f"{100 * ours:.1f} / {100 * plain:.1f}")
        over = "trained" if trained else "untrained"
        print(f"| {accuracy} | {variation} | {over} | {' | '.join(cells)} |", flush=True)
    error = float(stats.binom.std(arguments.studies, 0.95)) / arguments.studies
    for name, found in (("ours", np.array(all_ours)), ("plain", np.array(all_plain))):
        inside = float(((found >= 0.93) & (found <= 0.97)).mean())
        print(
            f"\n{name}: {found.min():.1%} to {found.max():.1%}, {inside:.0%} of {len(found)} within 93 to 97 %", end=""
        )
    print(f"; one figure's standard error is {error:.1%}")


if __name__ == "__main__":
    main()
