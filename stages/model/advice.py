"""What the planner says of a job: its table, and which settings would make it fit, computed one by one.

`advice` is also what a training that ran out of memory ends with. Needs no torch.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations

from stages.config import SFT, Evaluate, LoRA
from stages.model.memory import GB, Lengths, Plan, Setup, least_cache, plan

PARTS = (
    "weights", "frozen weights", "gradients", "AdamW", "reference", "sampler", "cache", "activations",
    "vocabulary head", "gathered", "features", "program",
)  # fmt: skip
MOST_PROCESSES, MOST_TOGETHER = 64, 4
ADAPTERS = LoRA(
    rank=16, alpha=32.0, layers=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
)
OTHER_RESULTS = "learns something else"


@dataclass(frozen=True)
class Change:
    """A setting that would take less.

    Attributes:
        setting: the key's path in the study, and its new value.
        setup: the job with it.
        note: what else changes; "" for nothing but time.
    """

    setting: str
    setup: Setup
    note: str = ""

    @property
    def name(self) -> str:
        """The key alone."""
        return self.setting.split(":")[0]


def changes(setup: Setup) -> Iterator[Change]:
    """Every single setting that the job could have otherwise."""
    s, replace = setup.settings, dataclasses.replace
    memory = setup.memory
    if setup.stage != "evaluate":
        yield from _of_training(setup)
    else:
        assert isinstance(s, Evaluate)
        if s.batch_size > 1 and setup.engine == "native":
            half = s.batch_size // 2
            yield Change(f"evaluate.batch_size: {half}", replace(setup, settings=_with(s, batch_size=half)))
    if setup.stage != "sft" and setup.engine == "vllm":
        less = max(memory.kv_cache_mb // 8, least_cache(setup))
        small = replace(setup, memory=_with(memory, kv_cache_mb=less))
        yield Change(f"resources.memory.kv_cache_mb: {less}", small)
    elif setup.stage != "sft" and setup.compute.device == "cuda":
        yield Change("collector.engine: vllm", replace(setup, engine="vllm"), "rounds otherwise")
    half = memory.feature_memory_mb // 2
    yield Change(
        f"resources.memory.feature_memory_mb: {half}", replace(setup, memory=_with(memory, feature_memory_mb=half))
    )
    less = setup.lengths.image // 2
    lengths = Lengths(setup.lengths.prompt - less, setup.lengths.image - less, setup.lengths.learnt - less, False)
    yield Change("prompt.max_pixels: half", replace(setup, lengths=lengths), OTHER_RESULTS)
    # Last: as many as are needed beside what was changed before.
    trains_all = setup.stage != "evaluate" and not setup.learner.lora
    if trains_all and setup.compute.device == "cuda" and (more := _more_processes(setup)):
        yield Change(f"resources.{setup.stage}: {{processes: {more.processes}, sharded: true}}", more)


def _of_training(setup: Setup) -> Iterator[Change]:
    s, memory, replace = setup.settings, setup.memory, dataclasses.replace
    if not memory.activation_checkpointing:
        checkpointing = _with(memory, activation_checkpointing=True)
        yield Change("resources.memory.activation_checkpointing: true", replace(setup, memory=checkpointing))
    if setup.stage == "rl" and not memory.offload_reference and setup.compute.device == "cuda":
        offloading = _with(memory, offload_reference=True)
        yield Change("resources.memory.offload_reference: true", replace(setup, memory=offloading))
    section = f"{setup.stage}.{setup.method}"
    for key in ("backward_batch_size", "ppo_backward_batch_size", "forward_batch_size"):
        if getattr(s, key, 1) > 1:
            yield Change(f"{section}.{key}: 1", replace(setup, settings=_with(s, **{key: 1})))
    if not setup.learner.lora:
        if setup.processes > 1 and not setup.sharded:
            yield Change(f"resources.{setup.stage}.sharded: true", replace(setup, sharded=True))
        lora = _with(setup.learner, lora=ADAPTERS)
        yield Change("learner.lora: {rank: 16, ...}", replace(setup, learner=lora, sharded=False), OTHER_RESULTS)
    if setup.learner.dtype == "float32" and setup.compute.dtype == "bfloat16":
        narrow = _with(setup.learner, dtype="bfloat16")
        yield Change("learner.dtype: bfloat16", replace(setup, learner=narrow), "small updates are rounded away")


def _more_processes(setup: Setup) -> Setup | None:
    """On the fewest processes on which it fits, or else on twice as many; None where the batch allows neither."""
    s = setup.settings
    assert not isinstance(s, Evaluate)
    rows, of_group = (s.batch_size, 1) if isinstance(s, SFT) else (s.ppo_batch_size, s.group_size)
    allowed = [n for n in range(setup.processes + 1, MOST_PROCESSES + 1) if rows % (n * of_group) == 0]
    found = [dataclasses.replace(setup, processes=n, sharded=True) for n in allowed]
    return next((more for more in found if setup.limit and plan(more).fits), found[0] if found else None)


def _with(settings: object, **values: object) -> object:
    return settings.model_copy(update=values)  # type: ignore[attr-defined]


def advice(setup: Setup) -> str:
    """What a job takes, and what would make it take less, the most first.

    Where no single setting is enough, as few as possible are put together.
    """
    made = plan(setup)
    tried = sorted(((plan(change.setup), change) for change in changes(setup)), key=lambda pair: pair[0].peak)
    lines = [f"{_name(setup)}: {_gb(made.peak)} GB at {made.worst}, {_limit(setup)}. What would take less:"]
    helpful = [(other, change) for other, change in tried if other.peak < 0.99 * made.peak]
    for other, change in helpful:
        fits = ", fits" if setup.limit and other.fits else ""
        note = f" ({change.note})" if change.note else ""
        lines.append(f"  {change.setting:55} {_gb(other.peak):>6} GB{fits}{note}")
    if not helpful:
        return "\n".join([*lines, "  nothing that the planner knows of: a smaller model, or a larger GPU"])
    if setup.limit and not any(other.fits for other, _ in helpful):
        lines.append(f"  {_together(setup)}")
    return "\n".join(lines)


def _together(setup: Setup) -> str:
    """As few settings as fit together, and of as many those that rather change nothing but time."""
    names = [change.name for change in changes(setup)]
    for count in range(2, MOST_TOGETHER + 1):
        tried = [_changed(setup, chosen) for chosen in combinations(names, count)]
        fitting = [(taken, after) for taken, after in tried if plan(after).fits]
        if fitting:
            taken, after = min(fitting, key=lambda pair: (sum(bool(c.note) for c in pair[0]), plan(pair[1]).peak))
            return f"together: {'; '.join(change.setting for change in taken)}: {_gb(plan(after).peak)} GB, fits"
    taken, after = _changed(setup, names)
    every = "; ".join(change.setting for change in taken)
    return f"all that go together ({every}) take {_gb(plan(after).peak)} GB, which is still too much"


def _changed(setup: Setup, names: Iterable[str]) -> tuple[list[Change], Setup]:
    """With some changes, one after the other; those that another one has made impossible are left out."""
    taken = []
    for name in names:
        change = next((change for change in changes(setup) if change.name == name), None)
        if change:
            taken.append(change)
            setup = change.setup
    return taken, setup


def report(plans: list[Plan], unknown: list[str]) -> str:
    """A table of all jobs at their worst moments, and advice for those that cannot fit."""
    used = [part for part in PARTS if any(part in made.moments[made.worst] for made in plans)]
    heads = ["GB a process", *used, "together", "limit", "worst moment"]
    rows = [heads]
    for made in plans:
        parts = made.moments[made.worst]
        limit = made.setup.limit
        rows.append(
            [
                _name(made.setup),
                *(_gb(parts[part]) if part in parts else "-" for part in used),
                _gb(made.peak),
                _gb(limit) if limit else "none",
                made.worst,
            ]
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
    lines = [
        "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    lines.append("")
    for made in plans:
        moments = ", ".join(f"{moment} {_gb(made.total(moment))}" for moment in made.moments)
        lengths = made.setup.lengths
        how = "measured" if lengths.measured else "from max_pixels and 512 tokens of text"
        lines.append(f"{_name(made.setup)}: {moments}; {lengths.prompt} tokens of prompt, {how}.")
    lines += [f"Nothing is known of {model} before it is downloaded or built." for model in unknown]
    lines += ["\n" + advice(made.setup) for made in plans if not made.fits]
    return "\n".join(lines)


def _name(setup: Setup) -> str:
    return " ".join(part for part in (setup.model, setup.stage, setup.method) if part)


def _limit(setup: Setup) -> str:
    return f"of {_gb(setup.limit)} GB" if setup.limit else "without a limit"


def _gb(size: int) -> str:
    return f"{size / GB:.1f}" if size >= 0.95 * GB else f"{size / GB:.2f}"
