"""How right, how fast and how hard to break is the answer judge? `python benchmarks/judge.py`.

--pairs FILE         a table of verdicts against the expected ones, beside math-verify on the raw strings; every
                     line of the file has pred, gold, expected and scope (core or not)
--responses FILES    answers a second on one core, on a study's responses.jsonl or any lines of text and answer;
                     without it on synthetic ones
--differences FILES  every verdict that is not the one in a file, whose lines have model_output, ground_truth and
                     is_correct_per_repo (the outputs that R1-V published, for instance)
--fuzz SECONDS       mutates the pairs, or examples of its own, and stops at the first exception or late verdict
"""

import argparse
import json
import logging
import random
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import Any

from stages.config import JudgeRules
from stages.evaluation.answers import DEFAULT, Judge

NUMBERS_IN_BOXES = JudgeRules(where="box", form="number", relative_tolerance=1e-4, decimals=None, percent="unit")
ROUNDS = 5
LIMIT, SLACK = 1.0, 2.0  # seconds; slack is for starting a worker on a busy machine

CELLS = ("TP", "FN", "FP", "TN")


def lines(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


# --- how right -------------------------------------------------------------------------------------------------------


def raw_math_verify(rows: list[dict[str, Any]]) -> list[bool]:
    from math_verify import parse, verify

    return [bool(verify(parse(row["gold"]), parse(row["pred"]))) for row in rows]


def ours(rows: list[dict[str, Any]]) -> list[bool]:
    with Judge() as judge:
        return [bool(v) for v in judge.verdicts([row["pred"] for row in rows], [row["gold"] for row in rows])]


def cell(said: bool, expected: bool) -> str:
    return CELLS[(not said) if expected else 2 + (not said)]


def table(rows: list[dict[str, Any]]) -> str:
    """True and false positives and negatives of both judges, on the core pairs and on all."""
    text = ["| judge | pairs | TP | FN | FP | TN |", "|---|---|--:|--:|--:|--:|"]
    for name, judge in (("math-verify, raw strings", raw_math_verify), ("this judge", ours)):
        said = judge(rows)
        for scope in ("core", "all"):
            chosen = [(s, row["expected"]) for s, row in zip(said, rows, strict=True) if scope in (row["scope"], "all")]
            counts = Counter(cell(*pair) for pair in chosen)
            text.append(f"| {name} | {scope} | " + " | ".join(str(counts[c]) for c in CELLS) + " |")
    return "\n".join(text)


def differences(path: Path) -> str:
    """How many responses a file's authors and this judge call right, and every one on which they differ."""
    rows = lines(path)
    with Judge() as judge:
        verdicts = judge.verdicts([row["model_output"] for row in rows], [row["ground_truth"] for row in rows])
    theirs, right = sum(bool(row["is_correct_per_repo"]) for row in rows), sum(map(bool, verdicts))
    text = [f"{path.name}: {len(rows)} responses, the file calls {theirs} right, this judge {right}"]
    for i, (row, verdict) in enumerate(zip(rows, verdicts, strict=True)):
        if bool(row["is_correct_per_repo"]) != verdict.correct:
            who = "accepted by the file alone" if row["is_correct_per_repo"] else "accepted by this judge alone"
            end = row["model_output"][-120:]
            text.append(f"  {i}: {who}, {verdict.outcome}: {verdict.found!r} for {row['ground_truth']!r}: ...{end!r}")
    return "\n".join(text)


# --- how fast --------------------------------------------------------------------------------------------------------


def synthetic(n: int = 2000) -> dict[str, list[tuple[str, str]]]:
    """Distinct responses in the form of a tiny model's, and longer ones with <answer> tags and LaTeX."""
    rng = random.Random(0)
    short, long = [], []
    for _ in range(n):
        a, b = rng.randint(1, 10**6), rng.randint(1, 99)
        short.append((f"The sides are {a} and {b}. {a}+{b}={a + b}. The answer is \\boxed{{{a + b}}}.", str(a + b)))
        said = rng.choice((str(a), f"{a}.0", f"{a}/{b}", f"{a}\\sqrt{{{b}}}"))
        reason = f"Since AB is the diameter of circle O, angle ACB = 90°, therefore AC = {a} * {b} = {said}. " * 3
        long.append(
            (f"<think>{reason}</think>\n<answer>{said}</answer>", rng.choice((f"{a}°", f"\\frac{{{a}}}{{{b}}}")))
        )
    return {"synthetic, short": short, "synthetic, long": long}


def answers_per_second(pairs: list[tuple[str, str]], rules: JudgeRules) -> float:
    """Median rate of one worker that is already running and has seen none of the pairs; repeated pairs count once."""
    responses, answers = zip(*dict.fromkeys(pairs), strict=True)
    rates = []
    for _ in range(ROUNDS):
        with Judge(workers=1) as judge:
            judge.verdicts([r"\boxed{\sqrt{2}}"], [r"\pi"])
            start = time.perf_counter()
            judge.verdicts(responses, answers, rules)
            rates.append(len(responses) / (time.perf_counter() - start))
    return statistics.median(rates)


def read_responses(paths: list[Path]) -> dict[str, list[tuple[str, str]]]:
    def pair(row: dict[str, Any]) -> tuple[str, str]:
        return str(row.get("text", row.get("model_output"))), str(row.get("answer", row.get("ground_truth")))

    return {str(path): [pair(row) for row in lines(path)] for path in paths}


# --- how hard to break -----------------------------------------------------------------------------------------------

PAIRS = [(r"\boxed{\frac{1}{2}}", "0.5"), ("x = 3", "3"), (r"$(1, 2)$", r"\{1, 2\}"), ("<answer>60°</answer>", "60")]
NASTY = [
    *("{", "}", "(", ")", "[", "]", "$", "\\", "^", "_", "%", ",", "=", "-", ".", "e", "!", "°", "٣", "１", "√", "∞"),
    *("\0", "\ud800", "\n", " " * 500, "9" * 300, "{" * 300, "}" * 300, "(" * 40, "\\frac{" * 40, "1" + ",1" * 60),
    *("\\boxed{", "\\text{", "\\frac{1}{", "\\sqrt{", "^{9^{9}}", "9^{9^{9^{9}}}", "10^{10^{10}}", "100000!", "1e999"),
    *("\\sum_{i=1}^{10^9}", "\\int_0^1", "\\lim_{x \\to 0}", "\\pm", "\\infty", "\\cup", "\\begin{pmatrix}", "\\\\"),
    *("<answer>", "</answer>", " and ", " or ", "answer is ", "\\approx", "\\neq", "\\%", "x", "\\pi", "\\log"),
]


def mutated(text: str, rng: random.Random, other: str) -> str:
    """A text after a few cuts, repetitions, insertions and transplants."""
    for _ in range(rng.randint(0, 4)):
        i, j = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        middle = rng.choice(
            ("", text[i:j] * rng.randint(2, 4), rng.choice(NASTY), text[i:j] + rng.choice(NASTY), other)
        )
        text = (text[:i] + middle + text[j:])[:200_000]
    return f"\\boxed{{{text}}}" if rng.random() < 0.3 else text


def fuzz(pairs: list[tuple[str, str]], seconds: float, seed: int) -> str:
    """Judges mutated pairs under all kinds of rules; AssertionError, with the pair, if a verdict is late or none."""
    rng = random.Random(seed)
    rules = [
        JudgeRules(where=w, form=f, relative_tolerance=t, decimals=d, percent=p)
        for w in ("box", "text")
        for f in ("number", "expression")
        for t, d in ((0.0, None), (1e-4, 2))
        for p in ("unit", "hundredth")
    ]
    outcomes: Counter[str] = Counter()
    slowest, end = 0.0, time.perf_counter() + seconds
    with Judge(workers=1, seconds=LIMIT) as judge:
        while time.perf_counter() < end:
            (response, answer), other = rng.choice(pairs), rng.choice(rng.choice(pairs))
            response = mutated(response if rng.random() < 0.8 else answer, rng, other)
            answer = answer if rng.random() < 0.7 else mutated(answer, rng, other)
            rule = rng.choice([DEFAULT, rng.choice(rules)])
            start = time.perf_counter()
            verdict = judge.verdicts([response], [answer], rule)[0]
            wall = time.perf_counter() - start
            assert wall <= LIMIT + SLACK, (wall, response, answer, rule)
            assert verdict.outcome in ("correct", "incorrect", "no answer", "timed out"), (response, answer, rule)
            outcomes[verdict.outcome] += 1
            slowest = max(slowest, wall)
    return f"{sum(outcomes.values())} pairs in {seconds:.0f} s, slowest {slowest:.2f} s, {dict(outcomes)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--responses", type=Path, nargs="*", default=[])
    parser.add_argument("--differences", type=Path, nargs="*", default=[])
    parser.add_argument("--fuzz", type=float, metavar="SECONDS")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    rows = lines(args.pairs) if args.pairs else []
    if args.fuzz:
        pairs = [(row["pred"], row["gold"]) for row in rows] or PAIRS
        print(fuzz(pairs, args.fuzz, args.seed))
        return
    if rows:
        print(table(rows))
    for path in args.differences:
        print(differences(path))
    if args.responses or not (rows or args.differences):
        for name, pairs in (read_responses(args.responses) or synthetic()).items():
            for label, rules in (("numbers in boxes", NUMBERS_IN_BOXES), ("default rules", DEFAULT)):
                print(f"{name}, {label}: {answers_per_second(pairs, rules):.0f} answers/s")


if __name__ == "__main__":
    main()
