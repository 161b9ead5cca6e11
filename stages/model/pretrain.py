"""Build a tiny base model from scratch: `python -m stages.model.pretrain RUN.json`.

First the vision tower learns to read the glyph in every cell of a figure, with a linear head that is thrown away.
Then, the vision tower frozen, the language model learns from captions of figures, arithmetic, and imperfect
solutions of every kind of problem. The schedule counts steps, never seconds, so the same recipe gives the same model.
A model that cannot read held-out figures is not accepted.
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedModel

from stages.config import PretrainRun, Recipe, load_run
from stages.data.boxes import boxed
from stages.data.geometry.drawing import Board
from stages.data.geometry.kinds import KINDS, results
from stages.data.geometry.problems import Given, Mode, draw_corpus, draw_given, figure, question
from stages.data.geometry.solutions import golden_solution, imperfect_solution, listed
from stages.files import sha256, whole_folder
from stages.model.compute import set_up
from stages.model.levels import joined, parted
from stages.model.processor import ImageOnlyProcessor
from stages.model.tiny import build_model, build_processor
from stages.progress import progress

IMAGE_TOKENS, GRID = 16, 8
GLYPHS = " 0123456789x"
HELD_OUT = 256
CAPTION_PROMPT = "<|vision_start|>" + "<|image_pad|>" * IMAGE_TOKENS + "<|vision_end|>"
IGNORED = -100


@dataclass
class Pictures:
    """The corpus's figures: N of them.

    Attributes:
        given: the problem each shows.
        features: [N, 16, H * (1 + D)] of them by the frozen vision tower (`stages.model.levels`); after stage one.
    """

    given: list[Given]
    features: Tensor
    seed: int
    processor: ImageOnlyProcessor

    @classmethod
    def draw(cls, count: int, seed: int, processor: ImageOnlyProcessor) -> "Pictures":
        return cls(list(islice(draw_corpus(seed), count)), torch.empty(0), seed, processor)

    def board(self, row: int) -> Board:
        """A figure, drawn anew each time: that is cheaper than to keep them all."""
        return figure(self.given[row], Random(f"picture/{self.seed}/{row}"))

    def patches(self, rows: Sequence[int]) -> Tensor:
        """[len(rows), 64, 384] the image processor's output."""
        return patches([self.board(row).image for row in rows], self.processor)

    def glyphs(self, rows: Sequence[int]) -> Tensor:
        """[len(rows), 16, 4] index into GLYPHS of each cell, the four cells of a merged patch together."""
        cells = torch.zeros(len(rows), GRID, GRID, dtype=torch.long)
        for i, row in enumerate(rows):
            for y, x, glyph in self.board(row).glyphs:
                cells[i, y, x] = GLYPHS.index(glyph)
        return cells.view(-1, 4, 2, 4, 2).permute(0, 1, 3, 2, 4).reshape(-1, IMAGE_TOKENS, 4)

    def grid(self, count: int) -> Tensor:
        """[count, 3] grid_thw."""
        return torch.tensor([[1, GRID, GRID]]).expand(count, 3)


def patches(images: list[Image.Image], processor: ImageOnlyProcessor) -> Tensor:
    """[len(images), 64, 384] what the image processor makes of square images."""
    made: Tensor = processor.image_processor(images, return_tensors="pt")["pixel_values"]
    return made.view(len(images), GRID * GRID, -1)


def look(model: PreTrainedModel, pictures: Pictures, rows: Sequence[int]) -> Tensor:
    """[len(rows), 16, H * (1 + D)] the vision tower's features, level beside level."""
    seen = model.model.visual(pictures.patches(rows).flatten(0, 1), grid_thw=pictures.grid(len(rows)))
    return joined(seen).view(len(rows), IMAGE_TOKENS, -1)


def learn_glyphs(model: PreTrainedModel, pictures: Pictures, recipe: Recipe, random: Random) -> None:
    """Stage one: every merged patch says which glyphs stand in its four cells."""
    hidden = model.config.text_config.hidden_size
    head = nn.Linear(hidden, 4 * len(GLYPHS))
    weights = [*model.model.visual.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=recipe.glyph_learning_rate, betas=(0.9, 0.98))
    rarity = torch.ones(len(GLYPHS))
    rarity[0] = 0.1
    trained = len(pictures.given) - HELD_OUT
    steps = progress(range(recipe.glyph_steps), "reading glyphs")
    for step in steps:
        for group in optimizer.param_groups:
            rise, fall = min(1, (step + 1) / 10), 1 - step / recipe.glyph_steps
            group["lr"] = recipe.glyph_learning_rate * rise * max(0.02, fall)
        rows = random.sample(range(trained), min(64, trained))
        logits = head(F.rms_norm(look(model, pictures, rows)[..., :hidden], (hidden,))).view(-1, len(GLYPHS))
        target = pictures.glyphs(rows).view(-1)
        loss = F.cross_entropy(logits, target, weight=rarity)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        right = (logits.argmax(-1) == target)[target > 0].float().mean()
        steps.set_postfix(loss=f"{loss.item():.3f}", right=f"{right.item():.3f}", refresh=False)
    model.model.visual.requires_grad_(False)
    with torch.no_grad():
        order = range(len(pictures.given))
        parts = progress(order[::256], "looking at figures")
        pictures.features = torch.cat([look(model, pictures, order[i : i + 256]) for i in parts])


@dataclass
class Batch:
    """Rows of prompt and target, padded on the right to L tokens.

    Attributes:
        token_ids, labels: [B, L]; labels are IGNORED where nothing is to be learnt.
        pictures: which picture each row shows; empty for rows of text alone.
    """

    token_ids: Tensor
    labels: Tensor
    pictures: list[int]


class Corpus:
    """What a base model reads: captions, arithmetic, and imperfect solutions with the numbers in text or figure."""

    def __init__(self, recipe: Recipe, pictures: Pictures, processor: ImageOnlyProcessor, random: Random) -> None:
        self.recipe, self.pictures, self.tokenizer, self.random = recipe, pictures, processor.tokenizer, random
        self.eos, self.pad = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        self._unread: list[int] = []

    def batches(self) -> Iterator[Batch]:
        """`recipe.steps` batches; captions and arithmetic twice as often in the first third."""
        for step in range(self.recipe.steps):
            basics = 0.6 if step < 0.3 * self.recipe.steps else 0.3
            draw = self.random.random()
            if draw < basics / 2:
                yield self.captions()
            elif draw < basics:
                yield self.arithmetic()
            else:
                yield self.solutions("vision" if self.random.random() < 0.55 else "text")

    def captions(self) -> Batch:
        rows = self._next_pictures(2 * self.recipe.batch_size)
        return self._batch([(CAPTION_PROMPT, self.caption(row)) for row in rows], rows)

    def caption(self, row: int) -> str:
        return listed(self.pictures.given[row].numbers)

    def arithmetic(self) -> Batch:
        """Lines of calculations; only what stands between = and . is to be learnt."""
        lines = [("", self._calculations()) for _ in range(self.recipe.batch_size)]
        batch = self._batch(lines, [])
        equals, stop = (self.tokenizer.encode(sign)[0] for sign in "=.")
        opened = (batch.token_ids == equals).cumsum(1) > (batch.token_ids == stop).cumsum(1)
        result = (opened & (batch.token_ids != equals)) | (batch.token_ids == stop)
        batch.labels.masked_fill_(~result, IGNORED)
        return batch

    def solutions(self, mode: Mode) -> Batch:
        rows = self._next_pictures(self.recipe.batch_size)
        pairs = []
        for row in rows:
            given = self.pictures.given[row]
            pairs.append(
                (
                    self.prompt(question(given, mode, self.random)),
                    imperfect_solution(given, self.random, self.recipe.noise),
                )
            )
        return self._batch(pairs, rows)

    def prompt(self, text: str) -> str:
        message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}
        rendered = self.tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
        return rendered.replace("<|image_pad|>", "<|image_pad|>" * IMAGE_TOKENS)

    def _calculations(self) -> str:
        steps: list[str] = []
        while len(steps) < 7:
            kind = self.random.choice(list(KINDS.values()))
            steps += [f"{a}{op}{b}={c}." for a, op, b, c in results(kind.steps(*kind.draw_numbers(self.random)))]
        return " ".join(steps[:7])

    def _next_pictures(self, count: int) -> list[int]:
        if len(self._unread) < count:
            self._unread = list(range(len(self.pictures.given) - HELD_OUT))
            self.random.shuffle(self._unread)
        rows, self._unread = self._unread[:count], self._unread[count:]
        return rows

    def _batch(self, pairs: list[tuple[str, str]], pictures: list[int]) -> Batch:
        prompts = self.tokenizer([prompt for prompt, _ in pairs])["input_ids"]
        targets = [[*ids, self.eos] for ids in self.tokenizer([target for _, target in pairs])["input_ids"]]
        length = max(len(p) + len(t) for p, t in zip(prompts, targets, strict=True))
        token_ids = torch.full((len(pairs), length), self.pad)
        labels = torch.full((len(pairs), length), IGNORED)
        for i, (prompt, target) in enumerate(zip(prompts, targets, strict=True)):
            token_ids[i, : len(prompt) + len(target)] = torch.tensor(prompt + target)
            labels[i, len(prompt) : len(prompt) + len(target)] = torch.tensor(target)
        return Batch(token_ids, labels, pictures)


def language_loss(model: PreTrainedModel, pictures: Pictures, batch: Batch) -> Tensor:
    """Mean cross-entropy of a batch's labels."""
    if batch.pictures:
        image = model.config.image_token_id
        hidden = model.model(
            input_ids=batch.token_ids,
            mm_token_type_ids=(batch.token_ids == image).int(),
            image_grid_thw=pictures.grid(len(batch.pictures)),
            mm_encoder_outputs={
                "image": parted(pictures.features[batch.pictures], model.config.text_config.hidden_size)
            },
            use_cache=False,
        ).last_hidden_state
    else:
        hidden = model.model.language_model(input_ids=batch.token_ids, use_cache=False).last_hidden_state
    learnt = batch.labels[:, 1:] != IGNORED
    return F.cross_entropy(model.lm_head(hidden[:, :-1][learnt]), batch.labels[:, 1:][learnt])


def learn_language(model: PreTrainedModel, pictures: Pictures, corpus: Corpus, recipe: Recipe) -> None:
    """Stage two: warm up, stay, decay in the last third."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    decayed = [{"params": [w for w in weights if w.ndim > 1], "weight_decay": 0.05}]
    plain = [{"params": [w for w in weights if w.ndim <= 1], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW([*decayed, *plain], lr=recipe.learning_rate, betas=(0.9, 0.98))
    mean = {"problems": 0.0, "text": 0.0}
    batches = progress(corpus.batches(), "reading the corpus", total=recipe.steps)
    for step, batch in enumerate(batches):
        left = (recipe.steps - step) / (0.35 * recipe.steps)
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * min(1, (step + 1) / 30, max(0.03, left))
        loss = language_loss(model, pictures, batch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        of = "problems" if batch.pictures else "text"
        mean[of] += 0.05 * (loss.item() - mean[of])
        batches.set_postfix({name: f"{value:.3f}" for name, value in mean.items()}, refresh=False)


@torch.no_grad()
def answers(model: PreTrainedModel, processor: ImageOnlyProcessor, prompts: list[str], seen: Tensor) -> list[str]:
    """Greedy answers to prompts with one 64 x 64 picture each."""
    found: list[str] = []
    for i in range(0, len(prompts), 64):
        batch = processor.tokenizer(prompts[i : i + 64], return_tensors="pt", padding=True)
        tokens = model.generate(
            **batch,
            mm_token_type_ids=(batch["input_ids"] == model.config.image_token_id).int(),
            pixel_values=seen[i : i + 64].flatten(0, 1),
            image_grid_thw=torch.tensor([[1, GRID, GRID]]).expand(len(batch["input_ids"]), 3),
            do_sample=False,
            max_new_tokens=96,
        )
        found += processor.tokenizer.batch_decode(tokens[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return found


def measure(model: PreTrainedModel, processor: ImageOnlyProcessor, corpus: Corpus) -> dict[str, float]:
    """What the model can do, greedily: read held-out figures, and solve validation problems in either mode."""
    pictures, held_out = corpus.pictures, range(len(corpus.pictures.given) - HELD_OUT, len(corpus.pictures.given))
    read = answers(model, processor, [CAPTION_PROMPT] * HELD_OUT, pictures.patches(held_out))
    measured = {"read": _share(read[i] == corpus.caption(row) for i, row in enumerate(held_out))}
    given = draw_given("validation", HELD_OUT, corpus.recipe.seed)
    figures = [figure(g, Random(f"measure/{i}")).image for i, g in enumerate(given)]
    modes: tuple[Mode, ...] = ("text", "vision")
    for mode in modes:
        prompts = [corpus.prompt(question(g, mode, Random(i))) for i, g in enumerate(given)]
        solved = answers(model, processor, prompts, patches(figures, processor))
        measured[f"solved_{mode}"] = _share(boxed(text) == str(g.answer) for text, g in zip(solved, given, strict=True))
    return measured


def _share(values: Iterator[bool]) -> float:
    true = list(values)
    return sum(true) / len(true)


def tokenizer_texts(recipe: Recipe) -> Iterator[str]:
    """What the tokenizer is trained on: questions, imperfect and golden solutions of 4000 corpus problems."""
    for i, given in enumerate(islice(draw_corpus(recipe.seed), 4000)):
        random = Random(i)
        modes: tuple[Mode, ...] = ("text", "vision")
        yield from (question(given, mode, random) for mode in modes)
        yield "system\nYou are a helpful assistant.\nuser\nassistant\n"
        yield imperfect_solution(given, random, recipe.noise)
        yield golden_solution(given, random)


def pretrain(recipe: Recipe, save: Callable[[PreTrainedModel, ImageOnlyProcessor, dict[str, float]], None]) -> None:
    """Follow a recipe to its end and save the model.

    Raises:
        ValueError: the model reads fewer held-out figures than the recipe's gate asks.
    """
    if recipe.pictures <= HELD_OUT:
        raise ValueError(f"pictures={recipe.pictures}: {HELD_OUT} of them are held out, so there must be more")
    random = Random(recipe.seed)
    processor = build_processor(tokenizer_texts(recipe))
    model = build_model(recipe, processor)
    pictures = Pictures.draw(recipe.pictures, recipe.seed, processor)
    learn_glyphs(model, pictures, recipe, random)
    corpus = Corpus(recipe, pictures, processor, random)
    learn_language(model, pictures, corpus, recipe)
    measured = measure(model.eval(), processor, corpus)
    print(measured, file=sys.stderr)
    if measured["read"] < recipe.read_share:
        raise ValueError(
            f"this model reads {measured['read']:.1%} of held-out figures, and read_share asks {recipe.read_share:.1%}:"
            " not accepted (more steps, or a larger vision tower?)"
        )
    save(model, processor, measured)


def model_card(name: str, recipe: Recipe, measured: dict[str, float], digest: str) -> str:
    """Markdown: how the model came about, what it can do, and its hash."""
    noise, reflected = recipe.noise, recipe.noise.reflection
    return f"""# {name}

A tiny vision-language model of transformers' `{recipe.architecture}` classes, built and pre-trained from scratch by
this project (`stages/model/pretrain.py`); no weights of another model are in it. It is the base that the laptop study
fine-tunes, and good for nothing else.

**How it came about.** Recipe: `recipe.json`, seed {recipe.seed}. A tokenizer trained on the corpus;
{recipe.glyph_steps} updates of the vision tower on naming the glyph in every cell of a figure; then, with it
frozen, {recipe.steps} updates of {recipe.batch_size} rows of the language model on captions of {recipe.pictures}
figures,
arithmetic, and imperfect solutions of all kinds of problems: a step of a calculation is wrong with probability
{noise.slip}, {noise.direct:.0%} of the solutions are an answer alone, and {reflected:.0%} of the right and
{3 * reflected:.0%} of the wrong calculations are reflected on and done again. No problem of a validation or test
split is in the corpus; their kinds are, and so are bare calculations with any numbers.

**What it can do**, greedily, on {HELD_OUT} problems each:

| | share |
|---|---|
| reads all numbers of a held-out figure | {measured["read"]:.3f} |
| solves validation problems, numbers in the text | {measured["solved_text"]:.3f} |
| solves validation problems, numbers in the figure alone | {measured["solved_vision"]:.3f} |

`model.safetensors` sha256: `{digest}`
"""


def main(path: str) -> None:
    run = load_run(path, PretrainRun)
    set_up(run.compute)

    def save(model: PreTrainedModel, processor: ImageOnlyProcessor, measured: dict[str, float]) -> None:
        with whole_folder(Path(run.out)) as folder:
            model.save_pretrained(folder)
            processor.save_pretrained(folder)
            recipe = run.settings.model_dump(mode="json")
            (folder / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")
            digest = sha256(folder / "model.safetensors")
            (folder / "README.md").write_text(model_card(run.model, run.settings, measured, digest), encoding="utf-8")

    try:
        pretrain(run.settings, save)
    except ValueError as mistake:
        sys.exit(f"base.{run.model}: {mistake}")


if __name__ == "__main__":
    main(sys.argv[1])
