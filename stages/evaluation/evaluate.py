"""Answer the evaluation problems with every kept epoch of a run: `python -m stages.evaluation.evaluate RUN.json`.

The paper's settings (Sec. 4) side by side: a problem's prompt is read once, and each of its responses has its own
temperature and top_p. Every response is kept as a row of responses.jsonl; nothing is judged or averaged here. Stopped
at any moment, it goes on with the problems that are not answered yet.
"""

from collections.abc import Iterator
from pathlib import Path

import torch

from stages.config import EvaluateRun, Sampling, load_run
from stages.data.problem import Problem, read_problems
from stages.model.context import check_responses
from stages.model.lora import add_adapters, language_weights
from stages.model.vlm import VLM, load
from stages.progress import progress
from stages.records import ResponseRow
from stages.rl.collectors import make_collector
from stages.rl.data_flow import make_queries
from stages.rl.response_collection import Collector
from stages.seeds import seed_of
from stages.training.checkpoint import remove_complete
from stages.training.job import job
from stages.training.run import MEANS, Means, arguments
from stages.training.weights import load_weights


def answer(
    run: EvaluateRun, vlm: VLM, collector: Collector, epoch: int, split: str, problems: list[Problem]
) -> Iterator[ResponseRow]:
    """All responses to some problems: every setting's samples."""
    settings = run.settings.settings
    drawn = [(name, sample) for name, setting in settings.items() for sample in range(setting.samples)]
    sampling = {
        name: Sampling(temperature=setting.temperature, top_p=setting.top_p, max_new_tokens=run.settings.max_new_tokens)
        for name, setting in settings.items()
    }
    rows = [(problem, name, sample) for problem in problems for name, sample in drawn]
    responses = collector.collect(
        make_queries(problems, vlm, group_size=len(drawn)),
        [sampling[name] for _, name, _ in rows],
        [seed_of("evaluation", run.seed, split, epoch, problem.id, name, sample) for problem, name, sample in rows],
    )
    for i, (problem, name, sample) in enumerate(rows):
        yield ResponseRow(
            run=run.name,
            phase="evaluate",
            split=split,  # type: ignore[arg-type]
            epoch=epoch,
            generation_step=0,
            setting=name,
            problem=problem.id,
            sample=sample,
            text=responses.texts[i],
            answer=problem.answer,
            length=int(responses.mask[i].sum()),
            finished=bool(responses.finished[i]),
            rewards={},
            verdict=None,
            judge=None,
        )


def evaluate(run: EvaluateRun, means: Means = MEANS) -> None:
    """Write responses.jsonl for every epoch and split, some problems at a time.

    Args:
        run: its settings.
        means: what no result depends on.
    """
    inputs = [
        Path(run.base).with_name("base.json"),
        *(Path(run.data, f"{split}.jsonl") for split in run.settings.splits),
        *map(Path, run.weights.values()),
    ]
    with job(run, "stages.evaluation.evaluate", inputs, means.memory) as of_run:
        check_responses(run.preflight, run.settings.splits, run.settings.max_new_tokens)
        vlm = load(Path(run.base), run.compute, run.prompt, means.features)
        collector = make_collector(run, vlm, means.kv_cache_mb)
        if run.lora:
            add_adapters(vlm.model, run.lora, torch.float32, seed=0)
        parts = list(parts_of(run))
        done = of_run.begin()
        loaded = 0
        bar = progress(parts[done:], run.name, len(parts), done)
        for epoch, split, problems in bar:
            if epoch != loaded:
                load_weights(Path(run.weights[str(epoch)]), vlm.model)
                collector.load(language_weights(vlm.model))
                loaded = epoch
            rows = list(answer(run, vlm, collector, epoch, split, problems))
            of_run.record("responses.jsonl", rows)
            of_run.finish_step()
            length = sum(row.length for row in rows) / len(rows)
            bar.set_postfix(epoch=epoch, split=split, length=f"{length:.1f}", refresh=False)
    of_run.checkpoints.remove()
    if run.trained:  # Snakemake has accepted the training, or this would not run
        remove_complete(Path(run.trained))


def parts_of(run: EvaluateRun) -> Iterator[tuple[int, str, list[Problem]]]:
    """(epoch, split, problems) that are answered side by side."""
    splits = {split: read_problems(Path(run.data, f"{split}.jsonl")) for split in run.settings.splits}
    samples = sum(setting.samples for setting in run.settings.settings.values())
    size = max(1, run.settings.batch_size // samples)
    for epoch in sorted(map(int, run.weights)) or [0]:
        for split, problems in splits.items():
            for i in range(0, len(problems), size):
                yield epoch, split, problems[i : i + size]


if __name__ == "__main__":
    path, given = arguments()
    evaluate(load_run(path, EvaluateRun), given)
