"""A whole study: its grid, and the settings of each of its jobs."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import model_validator

from stages.config.runs import (
    BaseRun,
    DataReportRun,
    DataRun,
    DownloadRun,
    Evaluated,
    EvaluateRun,
    FiguresRun,
    JudgeRun,
    ModelRun,
    PreflightRun,
    PretrainRun,
    ReportRun,
    RLRun,
    ScoresRun,
    SFTRun,
    TablesRun,
    WeightsRun,
)
from stages.config.sections import (
    RL,
    SFT,
    Base,
    Checkpoint,
    CollectorSettings,
    Compute,
    Data,
    Download,
    Evaluate,
    GeneratedProblems,
    Grid,
    LearnerSettings,
    Name,
    PromptSettings,
    Recipe,
    Resources,
    Scores,
    Settings,
)

VANILLA = "vanilla"
VALIDATION = "validation"
DOWNLOADS = "results/download"
WEIGHTS = "results/weights"


class Study(Settings):
    """A whole study: what is compared (`study`), and one section a stage."""

    study: Grid
    download: dict[Name, Download]
    data: dict[Name, Data]
    prompt: PromptSettings
    base: dict[Name, Base]
    sft: dict[Name, SFT]
    rl: dict[Name, RL]
    learner: LearnerSettings
    collector: CollectorSettings
    evaluate: Evaluate
    scores: Scores
    compute: Compute
    resources: Resources

    @model_validator(mode="after")
    def _known_names(self) -> Self:
        if twice := set(self.sft) & set(self.rl):
            raise ValueError(f"rl.{min(twice)}: sft has a method of that name already")
        for key, names, allowed in (
            ("models", self.study.models, list(self.base)),
            ("datasets", self.study.datasets, list(self.data)),
            ("methods", self.study.methods, [VANILLA, *self.sft, *self.rl]),
        ):
            for name in names:
                if name not in allowed:
                    raise ValueError(f"study.{key}: {name!r} is not defined (allowed: {', '.join(allowed)})")
            if len(set(names)) < len(names):
                raise ValueError(f"study.{key}: a name stands there twice ({', '.join(names)})")
        if len(set(self.study.seeds)) < len(self.study.seeds):
            raise ValueError(f"study.seeds: a seed stands there twice ({', '.join(map(str, self.study.seeds))})")
        pairs = [f"{dataset}/{method}" for dataset in self.study.datasets for method in self.study.methods]
        for pair in self.study.skip:
            if pair not in pairs:
                raise ValueError(
                    f"study.skip: {pair!r} is no dataset/method of the grid (there are: {', '.join(pairs)})"
                )
        sections: dict[str, dict[str, SFT] | dict[str, RL]] = {"sft": self.sft, "rl": self.rl}
        for section, methods in sections.items():
            for method in self.methods(section):
                for dataset in [d for d in self.study.datasets if f"{d}/{method}" not in self.study.skip]:
                    self._check_batch(f"{section}.{method}", methods[method].batch_size, dataset)
        if self.study.keep_weights.best and VALIDATION not in self.evaluate.splits:
            raise ValueError(
                "study.keep_weights.best: true needs validation among evaluate.splits, which tells the best"
            )
        self._check_processes()
        self._check_learner()
        return self

    def _check_learner(self) -> None:
        """What is trained is kept as exactly as it is computed, and adapters are not cut into parts."""
        if self.learner.dtype == "bfloat16" and self.compute.dtype == "float32":
            raise ValueError("learner.dtype: bfloat16, less exact than compute.dtype: float32 (allowed here: float32)")
        for stage, job in (("sft", self.resources.sft), ("rl", self.resources.rl)):
            if self.learner.lora and job.sharded and self.methods(stage):
                raise ValueError(
                    f"resources.{stage}.sharded: true, but adapters (learner.lora) stay whole (allowed: false)"
                )

    def _check_processes(self) -> None:
        """Every process updates on equally many whole groups, so that N of them compute what one would."""
        for name in self.methods("sft"):
            batch, n = self.sft[name].batch_size, self.resources.sft.processes
            if batch % n:
                raise ValueError(f"resources.sft.processes: {n} must divide sft.{name}.batch_size={batch}")
        for name in self.methods("rl"):
            rl, n = self.rl[name], self.resources.rl.processes
            if n > 1 and rl.ppo_batch_size % (n * rl.group_size):
                raise ValueError(
                    f"resources.rl.processes: {n} of whole groups (rl.{name}.group_size={rl.group_size}) must divide "
                    f"rl.{name}.ppo_batch_size={rl.ppo_batch_size}; it must be a multiple of {n * rl.group_size}"
                )

    def _check_batch(self, method: str, batch: int, dataset: str) -> None:
        rows = self.rows(dataset, "train")
        if rows is not None and rows < batch:
            raise ValueError(f"{method}.batch_size: {batch} problems, but data.{dataset}.problems.train has {rows}")

    def rows(self, dataset: str, split: Literal["train", "validation", "test"]) -> int | None:
        """Problems of a split; None where only its files can tell."""
        problems = self.data[dataset].problems
        if isinstance(problems, GeneratedProblems):
            count: int = getattr(problems, split)
            return count
        take = problems.splits[split].take
        return take[1] - take[0] if take else None

    @property
    def coolest_setting(self) -> str:
        """The generation setting of the lowest temperature: what is shown where one has to do."""
        return min(self.evaluate.settings, key=lambda name: self.evaluate.settings[name].temperature)

    # the grid

    def kind(self, method: str) -> Literal["vanilla", "sft", "rl"]:
        """What a method is: the section its settings stand in."""
        return "sft" if method in self.sft else "rl" if method in self.rl else "vanilla"

    def methods(self, kind: str) -> list[str]:
        """The grid's methods of a kind."""
        return [method for method in self.study.methods if self.kind(method) == kind]

    def save_epochs(self, dataset: str) -> tuple[int, ...]:
        """Epochs whose weights are kept and evaluated."""
        last = self.data[dataset].epochs
        return tuple(e for e in range(1, last + 1) if e % self.study.evaluate_every == 0 or e == last)

    def kept_epochs(self, dataset: str) -> tuple[int, ...]:
        """Epochs whose weights are kept whatever they are worth; which one is the best is not known yet."""
        asked, epochs = self.study.keep_weights, self.save_epochs(dataset)
        return tuple(e for e in epochs if (asked.every and e % asked.every == 0) or (asked.last and e == epochs[-1]))

    @property
    def keeps_all(self) -> bool:
        """Whether all trained weights are kept."""
        return all(self.kept_epochs(dataset) == self.save_epochs(dataset) for dataset in self.study.datasets)

    @property
    def keeps_some(self) -> bool:
        """Whether some of the trained weights are kept, and others not."""
        asked = self.study.keep_weights
        return not self.keeps_all and bool(asked.every or asked.best or asked.last)

    def trained(self, kind: str, cell: str) -> str:
        """The folder of a run's trained weights: an artifact if all are kept, else removed once they are evaluated."""
        return f"{WEIGHTS if self.keeps_all else 'trained'}/{kind}/{cell}/epochs"

    def cells(self, kinds: Iterable[str] = ("vanilla", "sft", "rl")) -> list[str]:
        """`model/dataset/method/seedK` of every run of these kinds."""
        grid = self.study
        return [
            f"{model}/{dataset}/{method}/seed{seed}"
            for model in grid.models
            for dataset in grid.datasets
            for method in grid.methods
            for seed in grid.seeds
            if self.kind(method) in kinds and f"{dataset}/{method}" not in grid.skip
        ]

    def sources(self, dataset: str) -> list[str]:
        """Files that a data set is made from."""
        problems = self.data[dataset].problems
        if isinstance(problems, GeneratedProblems):
            return []
        found = set[str]()
        for rows in problems.splits.values():
            if (name := self._downloaded(rows.folder)) is not None:
                found.add(f"{DOWNLOADS}/{name}/download.json")
                continue
            files = {path for pattern in rows.patterns for path in Path(rows.folder).glob(pattern) if path.is_file()}
            found |= {str(path) for file in files for path in (file, *_pictures(file))}
        return sorted(found)

    def checkpoint_sources(self, model: str) -> list[str]:
        """Files that a base model is copied from, if it is given as a checkpoint."""
        base = self.base[model]
        if not isinstance(base, Checkpoint):
            return []
        if (name := self._downloaded(base.path)) is not None:
            return [f"{DOWNLOADS}/{name}/download.json"]
        return sorted(str(path) for path in Path(base.path).glob("*") if path.is_file())

    def _downloaded(self, folder: str) -> str | None:
        """The name under `download` that a folder is of."""
        path = Path(folder)
        return path.name if str(path.parent) == DOWNLOADS and path.name in self.download else None

    # the runs

    def download_run(self, name: str) -> DownloadRun:
        # Without the gigabytes, which are for the plan: a better guess fetches nothing again.
        asked = self.download[name].model_dump(exclude={"gigabytes"})
        return DownloadRun(out=f"{DOWNLOADS}/{name}", name=name, **asked)

    def data_run(self, dataset: str) -> DataRun:
        return DataRun(out=f"results/data/{dataset}", dataset=dataset, settings=self.data[dataset].problems)

    def data_report_run(self, dataset: str) -> DataReportRun:
        return DataReportRun(
            out=f"results/data_report/{dataset}",
            dataset=dataset,
            data=f"results/data/{dataset}",
            preflights={model: f"results/preflight/{model}/{dataset}" for model in self.study.models},
        )

    def pretrain_run(self, model: str) -> PretrainRun:
        recipe = self.base[model]
        if not isinstance(recipe, Recipe):
            raise ValueError(f"base.{model}: a checkpoint, so there is nothing to pre-train")
        return PretrainRun(out=f"results/pretrain/{model}", model=model, settings=recipe, compute=self.compute)

    def base_run(self, model: str) -> BaseRun:
        base = self.base[model]
        path = base.path if isinstance(base, Checkpoint) else f"results/pretrain/{model}"
        return BaseRun(out=f"results/base/{model}", model=model, checkpoint=path)

    def preflight_run(self, model: str, dataset: str) -> PreflightRun:
        return PreflightRun(
            out=f"results/preflight/{model}/{dataset}",
            model=model,
            dataset=dataset,
            base=f"results/base/{model}/checkpoint",
            data=f"results/data/{dataset}",
            prompt=self.prompt,
        )

    def sft_run(self, model: str, dataset: str, method: str, seed: int) -> SFTRun:
        return SFTRun(**self._train_run("sft", model, dataset, method, seed), settings=self.sft[method])

    def rl_run(self, model: str, dataset: str, method: str, seed: int) -> RLRun:
        return RLRun(
            **self._train_run("rl", model, dataset, method, seed),
            judge=self.data[dataset].judge,
            engine=self.collector.engine,
            settings=self.rl[method],
        )

    def evaluate_run(self, model: str, dataset: str, method: str, seed: int) -> EvaluateRun:
        kind = self.kind(method)
        epochs = () if kind == "vanilla" else self.save_epochs(dataset)
        cell = f"{model}/{dataset}/{method}/seed{seed}"
        return EvaluateRun(
            **self._model_run("evaluate", model, dataset, method, seed),
            weights=self._weights(kind, cell, epochs),
            trained=f"checkpoints/{kind}/{cell}" if epochs else None,
            lora=self.learner.lora if epochs else None,
            engine=self.collector.engine,
            settings=self.evaluate,
        )

    def weights_run(self, stage: str, model: str, dataset: str, method: str, seed: int) -> WeightsRun:
        cell = f"{model}/{dataset}/{method}/seed{seed}"
        judged = Evaluated(responses=f"results/evaluate/{cell}", verdicts=f"results/judge/evaluate/{cell}")
        return WeightsRun(
            out=f"{WEIGHTS}/{stage}/{cell}",
            trained=self._weights(stage, cell, self.save_epochs(dataset)),
            epochs=self.kept_epochs(dataset),
            setting=self.coolest_setting,
            best=judged if self.study.keep_weights.best else None,
        )

    def _weights(self, kind: str, cell: str, epochs: Iterable[int]) -> dict[str, str]:
        """The file of each epoch's weights."""
        folder = self.trained(kind, cell)  # asked once: it looks through the epochs of all data sets
        return {str(epoch): f"{folder}/epoch{epoch}.safetensors" for epoch in epochs}

    def model_runs(self) -> Iterator[ModelRun]:
        """The training, if there is one, and the evaluation of every cell."""
        for cell in self.cells():
            model, dataset, method, seed = cell.split("/")
            run = (model, dataset, method, int(seed.removeprefix("seed")))
            if (kind := self.kind(method)) != "vanilla":
                yield self.sft_run(*run) if kind == "sft" else self.rl_run(*run)
            yield self.evaluate_run(*run)

    def judge_run(self, stage: str, model: str, dataset: str, method: str, seed: int) -> JudgeRun:
        cell = f"{stage}/{model}/{dataset}/{method}/seed{seed}"
        return JudgeRun(
            out=f"results/judge/{cell}",
            responses=f"results/{cell}",
            workers=self.compute.threads,
            settings=self.data[dataset].judge,
        )

    def judged(self, stage: Literal["rl", "evaluate"]) -> tuple[Evaluated, ...]:
        """The responses of all runs, in RL training or in evaluation, with their verdicts."""
        return tuple(
            Evaluated(responses=f"results/{stage}/{cell}", verdicts=f"results/judge/{stage}/{cell}")
            for cell in (self.cells(["rl"]) if stage == "rl" else self.cells())
        )

    def scores_run(self) -> ScoresRun:
        return ScoresRun(
            out="results/scores",
            trained=self.judged("rl"),
            tuned=tuple(f"results/sft/{cell}" for cell in self.cells(["sft"])),
            evaluated=self.judged("evaluate"),
            samples={name: setting.samples for name, setting in self.evaluate.settings.items()},
            order=tuple(self.evaluate.settings),
            setting=self.coolest_setting,
            methods=tuple((method, self.kind(method)) for method in self.study.methods),
            data={dataset: f"results/data/{dataset}" for dataset in self.study.datasets},
            rules={dataset: self.data[dataset].judge for dataset in self.study.datasets},
            workers=self.compute.threads,
            settings=self.scores,
        )

    def tables_run(self) -> TablesRun:
        return TablesRun(out="results/tables", scores="results/scores")

    def figures_run(self) -> FiguresRun:
        return FiguresRun(
            out="results/figures",
            scores="results/scores",
            setting=self.coolest_setting,
        )

    def report_run(self, paper: "Study") -> ReportRun:
        """Args: paper: the paper's study, which the page compares this one with."""
        return ReportRun(
            out="results/report",
            study=self.study.name,
            scores="results/scores",
            tables="results/tables",
            figures="results/figures",
            runs={run.out: run.digest() for run in self.model_runs()},
            settings=self.model_dump(mode="json", exclude={"resources"}),
            paper=paper.model_dump(mode="json", exclude={"resources"}),
        )

    def _train_run(self, stage: str, model: str, dataset: str, method: str, seed: int) -> dict[str, Any]:
        return self._model_run(stage, model, dataset, method, seed) | {
            "epochs": self.data[dataset].epochs,
            "save_epochs": self.save_epochs(dataset),
            "weights": self.trained(stage, f"{model}/{dataset}/{method}/seed{seed}"),
            "learner": self.learner,
        }

    def _model_run(self, stage: str, model: str, dataset: str, method: str, seed: int) -> dict[str, Any]:
        return {
            "out": f"results/{stage}/{model}/{dataset}/{method}/seed{seed}",
            "model": model,
            "dataset": dataset,
            "method": method,
            "seed": seed,
            "base": f"results/base/{model}/checkpoint",
            "data": f"results/data/{dataset}",
            "preflight": f"results/preflight/{model}/{dataset}",
            "checkpoints": f"checkpoints/{stage}/{model}/{dataset}/{method}/seed{seed}",
            "prompt": self.prompt,
            "compute": self.compute,
        }


def _pictures(path: Path) -> Iterator[Path]:
    """The pictures that a JSONL file in the paper's record names; a broken file is its reader's matter."""
    if path.suffix == ".jsonl" and path.is_file():
        for name in re.findall(r'"image"\s*:\s*"([^"]+)"', path.read_text(encoding="utf-8", errors="replace")):
            if (picture := path.parent / name).is_file():
                yield picture
