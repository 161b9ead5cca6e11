"""Will it fit? What a study takes of each GPU, before it runs: `python -m stages.model.memory config/paper.yaml`.

Predicts the bytes of every training and evaluation by part (weights, optimiser, activations, cache), at each of its
moments: pictures are looked at, responses sampled, scored, learnt from, and the weights moved, one after the other, and
what counts is what is alive at the worst of them. Needs neither torch nor the model's weights, only its config.json,
or its entry in `architectures`. Exits with 1 and advice where a job cannot fit (`stages.model.advice`).

How it counts, and how far it is from measurements: docs/memory.md.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stages.config import (
    RL,
    SFT,
    Checkpoint,
    Compute,
    Engine,
    Evaluate,
    EvaluateRun,
    LearnerSettings,
    LoRA,
    Memory,
    Recipe,
    RLRun,
    SFTRun,
    Study,
    TrainingJob,
    load_study,
)
from stages.model.architecture import Architecture, known_architecture, read_architecture, recipe_architecture
from stages.model.passes import FLOAT, Passes, Row, side_by_side
from stages.sources import ROOT

Stage = Literal["sft", "rl", "evaluate"]
SIZE = {"float32": 4, "bfloat16": 2}
MB, GB = 10**6, 10**9
# Tokens of a question with its instruction, and of a solution, where no preflight has measured them yet.
TEXT = 512
# What a vLLM engine works on at a time, by its defaults, and what it makes of logits (their log-probabilities,
# probabilities and noise, in float32); assumed, not measured.
VLLM_TOKENS, VLLM_ROWS, VLLM_LOGITS = 8192, 256, 4
# Beside all tensors: Python with its libraries on a CPU (measured); context and libraries of CUDA (assumed).
PROGRAM = {"cpu": 600 * MB, "cuda": 1000 * MB}


@dataclass(frozen=True)
class Lengths:
    """Tokens of the longest prompt, of the largest picture in one, and of the longest prompt with its solution.

    Attributes:
        measured: by a preflight; otherwise they follow from the pixel budget.
    """

    prompt: int
    image: int
    learnt: int
    measured: bool


@dataclass(frozen=True)
class Setup:
    """All that decides what a job takes.

    Attributes:
        model, method: names in the study.
        settings: of the method, or of the evaluation.
        problems: of the data set, whose pictures' features are kept; None where it is not known.
        processes, sharded: of the job.
        limit: bytes of a GPU or, on a CPU, of the machine that a process may take; None if it is not checked.
    """

    model: str
    stage: Stage
    method: str
    architecture: Architecture
    lengths: Lengths
    settings: SFT | RL | Evaluate
    learner: LearnerSettings
    engine: Engine
    compute: Compute
    memory: Memory
    problems: int | None
    processes: int
    sharded: bool
    limit: int | None


@dataclass(frozen=True)
class Plan:
    """What a job takes.

    Attributes:
        moments: bytes by part, for each moment in its order.
    """

    setup: Setup
    moments: dict[str, dict[str, int]]

    @property
    def worst(self) -> str:
        """The moment that takes most."""
        return max(self.moments, key=self.total)

    @property
    def peak(self) -> int:
        """Bytes at the worst moment."""
        return self.total(self.worst)

    @property
    def fits(self) -> bool:
        """True also where there is no limit."""
        return self.setup.limit is None or self.peak <= self.setup.limit

    def total(self, moment: str) -> int:
        """Bytes of a moment."""
        return sum(self.moments[moment].values())


def plan(setup: Setup) -> Plan:
    """What a job takes at each of its moments."""
    count = _Count(setup)
    moments = {
        "sft": count.learning,
        "rl": lambda: count.starting() | count.sampling() | count.scoring() | count.learning(),
        "evaluate": count.sampling,
    }[setup.stage]()
    return Plan(setup, {name: {part: b for part, b in parts.items() if b} for name, parts in moments.items()})


def at_least(made: Plan) -> Plan:
    """The same with prompts of no text and solutions of a token, where no preflight has measured them."""
    found = made.setup.lengths
    if found.measured:
        return made
    lengths = Lengths(found.image, found.image, found.image + 1, measured=False)
    return plan(dataclasses.replace(made.setup, lengths=lengths))


def least_cache(setup: Setup) -> int:
    """MB of keys and values of one row as long as any may be: with less, vLLM does not start."""
    settings = setup.settings
    assert not isinstance(settings, SFT)
    new = settings.sampling.max_new_tokens if isinstance(settings, RL) else settings.max_new_tokens
    return -(-_Count(setup).passes.cache(1, setup.lengths.prompt + new) // MB)


def trained_numbers(architecture: Architecture, lora: LoRA | None) -> int:
    """How many numbers a training moves: the language model's, or those of its adapters."""
    if not lora:
        return architecture.language
    return architecture.layers * sum(lora.rank * sum(architecture.linear[name]) for name in lora.layers)


class _Count:
    """The parts of a job, and which of them are alive together."""

    def __init__(self, setup: Setup) -> None:
        self.s, self.a = setup, setup.architecture
        trains = setup.stage != "evaluate"
        self.c = SIZE[setup.compute.dtype]
        self.w = SIZE[setup.learner.dtype] if trains else self.c
        self.lora = setup.learner.lora if trains else None
        self.passes = Passes(self.a, self.c, self.w, self.lora)
        self.parts = setup.processes if setup.sharded else 1
        # Weights that are kept in another type than they are used in, or cut into parts, are gathered block by block.
        self.gathers = trains and not self.lora and (self.parts > 1 or self.w != self.c)
        self.trained = trained_numbers(self.a, self.lora)
        self.ends = 0 if self.lora else self.a.ends
        self.on_gpu = setup.compute.device == "cuda"

    # what is alive for long

    def held(self, sampler_sleeps: bool) -> dict[str, int]:
        """What is alive at all moments.

        Args:
            sampler_sleeps: nobody samples, so that a vLLM engine on a GPU has given its memory back.
        """
        s, a, c = self.s, self.a, self.c
        frozen = a.vision * c
        if s.stage == "evaluate":
            return {"weights": a.language * c, "frozen weights": frozen} | self._around(sampler_sleeps)
        if self.lora:
            frozen += a.language * c
        found = {
            "weights": self.trained * self.w // self.parts,
            "frozen weights": frozen,
            "AdamW": 2 * self.trained * self.w // self.parts,
        }
        if s.stage == "rl" and not self.lora and not self._offloads:
            found["reference"] = a.language * c // self.parts
        return found | self._around(sampler_sleeps)

    @property
    def _offloads(self) -> bool:
        return self.s.memory.offload_reference and self.parts == 1 and self.on_gpu and not self.lora

    def _around(self, sampler_sleeps: bool) -> dict[str, int]:
        s = self.s
        found = {"program": PROGRAM[s.compute.device], "features": self._features()}
        if s.stage == "sft":
            return found
        if s.engine == "vllm":
            found["sampler"] = self.a.vision * self.c  # the engine would not be given it again
            if not (sampler_sleeps and self.on_gpu):
                found["sampler"] += self.a.language * self.c
                found["cache"] = s.memory.kv_cache_mb * MB
        elif s.stage == "rl" and (self.gathers or s.sharded):
            found["sampler"] = self.a.language * self.c
        return found

    def _features(self) -> int:
        """Of the pictures that are being asked about; on a CPU also of all others, as far as they may be kept."""
        s = self.s
        of_one = self.passes.features(s.lengths.image)
        asked = self._prompts() * of_one
        if self.on_gpu:
            return asked
        kept = s.memory.feature_memory_mb * MB
        return max(asked, kept if s.problems is None else min(kept, s.problems * of_one))

    def _prompts(self) -> int:
        """Problems that this process is asked at a time."""
        s = self.s.settings
        if isinstance(s, Evaluate):
            at_once = max(1, s.batch_size // sum(setting.samples for setting in s.settings.values()))
            return min(at_once, self.s.problems or at_once)
        return s.batch_size // self.s.processes

    # the moments

    def starting(self) -> dict[str, dict[str, int]]:
        """The model is there whole, and copied for the reference and the sampler, before any part is cut or moved."""
        language = self.a.language * self.c
        held = self._around(False) | {"weights": language, "frozen weights": self.a.vision * self.c, "features": 0}
        return {"starting": held if self.lora else held | {"reference": language}}

    def sampling(self) -> dict[str, dict[str, int]]:
        """Pictures are looked at, prompts read, responses drawn."""
        patches = self.s.lengths.image * self.a.merge**2
        pixels = self._prompts() * patches * self.a.patch_values * FLOAT  # of all that are asked about
        looking = {"looking": self.held(True) | {"activations": self.passes.looking(patches) + pixels}}
        drawing = self._by_vllm() if self.s.engine == "vllm" else self._natively()
        return looking | {name: self.held(False) | parts for name, parts in drawing.items()}

    def _by_vllm(self) -> dict[str, dict[str, int]]:
        p = self.passes
        working = max(p.reading(Row(1, VLLM_TOKENS)), VLLM_LOGITS * p.logits(VLLM_ROWS))
        # Before that, the engine takes over the weights, one whole tensor after the other.
        return {"sampling": {"activations": max(working, self.a.embedding * self.w)}}

    def _natively(self) -> dict[str, dict[str, int]]:
        s, p = self.s.settings, self.passes
        assert not isinstance(s, SFT)
        prompts, prompt = self._prompts(), self.s.lengths.prompt
        if isinstance(s, RL):
            group, cut, new = s.group_size, 0, s.sampling.max_new_tokens
        else:
            group = sum(setting.samples for setting in s.settings.values())
            cut = prompts * sum(setting.samples for setting in s.settings.values() if setting.top_p < 1)
            new = s.max_new_tokens
        rows, of_prompts = prompts * group, p.cache(prompts, prompt)
        # When rows leave, a layer's keys, and then its values, of the prompts that stay are there twice.
        leaving = p.cache(prompts - 1, prompt) // (2 * self.a.layers)
        working = max(p.drawing(rows, cut), p.logits(rows) + max(p.attending(prompts, prompt, rows, new), leaving))
        return {
            "reading": {"cache": of_prompts, "activations": p.prefill(prompts, prompt)},
            "sampling": {"cache": of_prompts + p.cache(rows, new), "activations": working},
        }

    def scoring(self) -> dict[str, dict[str, int]]:
        """Policy and reference say how likely the responses are."""
        s, p, a, c = self.s.settings, self.passes, self.a, self.c
        assert isinstance(s, RL)
        rows = min(s.forward_batch_size, self._prompts() * s.group_size)
        found = self.held(True)
        if self._offloads:
            found["reference"] = a.language * c
        # The first update finds the policy's itself (`stages.rl.trajectory_generation.fresh_rows`).
        asks_policy = s.responses > s.ppo_batch_size or bool(s.beta_rew) or s.importance_cap is not None
        if self.gathers and (asks_policy or self.parts > 1):
            found["gathered"] = (2 * a.block + (a.ends if asks_policy else 0)) * c
        new = s.sampling.max_new_tokens
        row = side_by_side(rows, s.group_size, self.s.lengths.prompt, new)
        working = max(p.reading(row), p.scoring(rows * new, entropy=False))
        return {"scoring": found | {"activations": working}}

    def learning(self) -> dict[str, dict[str, int]]:
        """Gradients are computed, micro-batch by micro-batch; then the weights are moved."""
        s, a, p, c = self.s, self.a, self.passes, self.c
        row, scored, accumulates = self._micro_batch()
        checkpointing = s.memory.activation_checkpointing
        held = self.held(True)
        # DDP has buckets beside them.
        times = 2 if s.processes > 1 and not self.gathers else 1
        gradients, of_blocks = (times * n * self.w // self.parts for n in (self.trained, self.trained - self.ends))
        gathered = {"gathered": (a.ends + 2 * a.block) * c + a.block * (c + self.w)} if self.gathers else {}
        # A tied matrix waits for its other gradient, and one of another type for the reduction at the end.
        waits = 0 if self.lora or not (a.tied or self.gathers) else c * a.embedding
        of_weight = 0 if self.lora or self.gathers else c * a.inner * a.width

        def at_block(blocks: int) -> dict[str, int]:
            """At the last of so many blocks; of the first micro-batch, gradients come as activations go."""
            there = of_blocks * (a.layers - blocks) // a.layers + of_weight
            working = p.kept(row, blocks, checkpointing=checkpointing) + p.turning(row, checkpointing=checkpointing)
            return {
                "gradients": gradients if accumulates else there,
                "activations": working,
                "vocabulary head": waits,
            }

        at_head = {
            "gradients": gradients if accumulates else 0,
            "activations": p.kept(row, a.layers, checkpointing=checkpointing),
            "vocabulary head": max(p.scoring(scored, entropy=s.stage == "rl"), p.scoring_gradient(scored)),
        }
        worst = max(at_head, at_block(a.layers), at_block(1), key=lambda parts: sum(parts.values()))
        embedded = 0 if self.lora else c * a.embedding
        # FSDP2 reduces what is outside blocks at once, in the type that gradients are kept in.
        # A tied matrix has two gradients, and their sum is a third.
        reduced = a.ends * (c + self.w) if self.gathers else embedded + 2 * waits
        ending = {"gradients": gradients, "vocabulary head": reduced, "activations": row.tokens * c * a.width}
        return {
            "learning": held | gathered | worst,
            "summing": held | gathered | ending,
            "moving": held | {"gradients": gradients},  # AdamW in one pass takes nothing
        }

    def _micro_batch(self) -> tuple[Row, int, bool]:
        """A micro-batch, its tokens that are scored, and whether an update has several, whose gradients add up."""
        s, prompt = self.s.settings, self.s.lengths.prompt
        if isinstance(s, RL):
            group, new = s.group_size, s.sampling.max_new_tokens
            rows, most = s.ppo_batch_size, s.ppo_backward_batch_size
        else:
            assert isinstance(s, SFT)
            group, new = 1, self.s.lengths.learnt - prompt
            rows, most = s.batch_size, s.backward_batch_size
        rows //= self.s.processes
        micro = min(rows, most)
        return side_by_side(micro, group, prompt, new), micro * new, rows > micro


# --- of a study ------------------------------------------------------------------------------------------------------


def plans(study: Study) -> tuple[list[Plan], list[str]]:
    """The plan of every model, stage and method: of the data set that takes most.

    Args:
        study: what is planned; its working directory is the current one.

    Returns:
        The plans, and the models of which nothing is known yet.
    """
    found: dict[tuple[str, str, str], Plan] = {}
    unknown = []
    for model in study.study.models:
        architecture = architecture_of(study, model)
        if architecture is None:
            unknown.append(model)
            continue
        for dataset in study.study.datasets:
            for setup in _setups(study, model, dataset, architecture):
                key, made = (model, setup.stage, setup.method), plan(setup)
                if key not in found or made.peak > found[key].peak:
                    found[key] = made
    return list(found.values()), unknown


def architecture_of(study: Study, model: str) -> Architecture | None:
    """A model's sizes: from its files, else as they are known of its repository, else from its recipe."""
    base = study.base[model]
    for folder in (f"results/base/{model}/checkpoint", study.base_run(model).checkpoint):
        config = Path(folder, "config.json")
        if config.is_file():
            try:
                return read_architecture(json.loads(config.read_text(encoding="utf-8")))
            except (ValueError, KeyError):  # of another family; whether it can be used at all is the base rule's matter
                return None
    if isinstance(base, Recipe):
        return recipe_architecture(base)
    name = Path(base.path).name if isinstance(base, Checkpoint) else ""
    return known_architecture(study.download[name].repo) if name in study.download else None


def _setups(study: Study, model: str, dataset: str, architecture: Architecture) -> Iterable[Setup]:
    resources = study.resources
    common: dict[str, Any] = {
        "model": model,
        "architecture": architecture,
        "learner": study.learner,
        "engine": study.collector.engine,
        "compute": study.compute,
        "memory": resources.memory,
    }
    stages: tuple[tuple[Stage, TrainingJob], ...] = (("sft", resources.sft), ("rl", resources.rl))
    for stage, job in stages:
        for method in study.methods(stage):
            if f"{dataset}/{method}" not in study.study.skip:
                settings = study.sft[method] if stage == "sft" else study.rl[method]
                yield Setup(
                    stage=stage,
                    method=method,
                    settings=settings,
                    lengths=lengths_of(study, model, dataset, architecture, ("train",)),
                    problems=study.rows(dataset, "train"),
                    processes=job.processes,
                    sharded=job.sharded,
                    limit=_limit(study, job.memory_mb, job.processes // job.nodes),
                    **common,
                )
    counts = [study.rows(dataset, split) for split in study.evaluate.splits]
    yield Setup(
        stage="evaluate",
        method="",
        settings=study.evaluate,
        lengths=lengths_of(study, model, dataset, architecture, study.evaluate.splits),
        problems=None if None in counts else sum(count for count in counts if count),
        processes=1,
        sharded=False,
        limit=_limit(study, resources.evaluate.memory_mb, 1),
        **common,
    )


def _limit(study: Study, memory_mb: int, on_a_node: int) -> int | None:
    if study.compute.device == "cpu":
        return memory_mb * MB // on_a_node
    return study.resources.memory.gpu_mb and study.resources.memory.gpu_mb * MB


def lengths_of(study: Study, model: str, dataset: str, architecture: Architecture, splits: Iterable[str]) -> Lengths:
    """As the preflight measured them; before it has run, from the largest picture that the study allows."""
    path = Path(study.preflight_run(model, dataset).out, "preflight.json")
    if path.is_file():
        return _measured(path, splits)
    image = architecture.image_tokens(study.prompt.max_pixels)
    return Lengths(image + TEXT, image, image + 2 * TEXT, measured=False)


def _measured(preflight: Path, splits: Iterable[str]) -> Lengths:
    found = json.loads(preflight.read_text(encoding="utf-8"))

    def longest(what: str) -> int:
        return max((found[what][split] or {"max": 0})["max"] for split in splits)

    return Lengths(longest("prompt_tokens"), longest("image_tokens"), longest("learnt_tokens"), measured=True)


def setup_of(
    run: SFTRun | RLRun | EvaluateRun, memory: Memory, processes: int, *, sharded: bool, limit: int | None
) -> Setup:
    """Of a job that is at work: its base and its preflight are there.

    Args:
        run: its settings.
        memory: as it was told.
        processes: of all nodes.
        sharded: each holds a part of the weights.
        limit: bytes that a process may take, if there is one.
    """
    stage: Stage = "evaluate" if isinstance(run, EvaluateRun) else "sft" if isinstance(run, SFTRun) else "rl"
    whole = LearnerSettings(dtype=run.compute.dtype, lora=None)
    config = Path(run.base, "config.json").read_text(encoding="utf-8")
    return Setup(
        model=run.model,
        stage=stage,
        method="" if stage == "evaluate" else run.method,
        architecture=read_architecture(json.loads(config)),
        lengths=_measured(
            Path(run.preflight, "preflight.json"),
            run.settings.splits if isinstance(run, EvaluateRun) else ("train",),
        ),
        settings=run.settings,
        learner=whole if isinstance(run, EvaluateRun) else run.learner,
        # Nobody samples for a learner of solutions, and nobody is asked.
        engine="native" if isinstance(run, SFTRun) else run.engine,
        compute=run.compute,
        memory=memory,
        problems=None,
        processes=processes,
        sharded=sharded,
        limit=limit,
    )


# --- the command -----------------------------------------------------------------------------------------------------


def main() -> None:
    from stages.model.advice import report  # it builds on this file

    parser = argparse.ArgumentParser(
        prog="python -m stages.model.memory", description="What a study takes of each GPU."
    )
    parser.add_argument("study", help="config/<study>.yaml")
    path = parser.parse_args().study
    try:
        study = load_study(path, root=ROOT)
    except (ValueError, OSError) as mistakes:
        sys.exit(f"The study cannot be read:\n{mistakes}")
    found, unknown = plans(study)
    print(report(found, unknown))
    if not all(made.fits for made in found):
        sys.exit(1)


if __name__ == "__main__":
    main()
