"""What passes through a model take beside its weights, in bytes: activations, caches, logits. Counted, not measured.

Each count follows the tensors of transformers' Qwen classes and of this project's own code, at the moment when most of
them are alive. docs/memory.md says how, and how far from the truth it is.

Letters: T tokens that are scored; the rest as in `stages.model.architecture`. c bytes of a number of the pass.
"""

import math
from dataclasses import dataclass

from stages.config import LoRA
from stages.model.architecture import Architecture

FLOAT, DOUBLE = 4, 8
# As `stages.model.vocabulary.LOGITS`, which a test compares: this file must not import torch.
LOGITS = 2**25


@dataclass(frozen=True)
class Row:
    """Sequences side by side, as `stages.model.sequences` lays them out; all are as long as the longest.

    Attributes:
        trunks: prompts, or whole sequences where there are no siblings.
        trunk: tokens of one.
        branches: responses to those prompts.
        branch: tokens of one.
    """

    trunks: int
    trunk: int
    branches: int = 0
    branch: int = 0

    @property
    def tokens(self) -> int:
        """Of the row."""
        return self.trunks * self.trunk + self.said

    @property
    def said(self) -> int:
        """Tokens of all branches."""
        return self.branches * self.branch

    @property
    def copied(self) -> int:
        """Tokens of trunks, whose keys and values are copied for each branch."""
        return self.branches * self.trunk

    @property
    def mask(self) -> int:
        """Pairs of tokens: of each branch, and of it and its trunk."""
        return self.branch * (self.copied + self.said)


def side_by_side(responses: int, group_size: int, prompt: int, new: int) -> Row:
    """The row of a batch that has most prompts; nothing is drawn from a response's last token.

    Args:
        responses: of the batch.
        group_size: of siblings.
        prompt, new: tokens of a prompt and of a response.
    """
    prompts = 1 + math.ceil((responses - math.gcd(responses, group_size)) / group_size)
    if prompts == responses:
        return Row(responses, prompt + new - 1)
    return Row(prompts, prompt, responses, new - 1)


@dataclass(frozen=True)
class Passes:
    """The passes of one model.

    Attributes:
        c: bytes of a number of the pass.
        kept_in: bytes of a number of the trained weights.
        lora: the adapters that are trained, if not all weights are.
    """

    a: Architecture
    c: int
    kept_in: int
    lora: LoRA | None

    # the language model

    def kept_of_block(self, row: Row) -> int:
        """What a block keeps for its gradient."""
        a, c, lora = self.a, self.c, self.lora
        # An RMSNorm computes in float32 and keeps its input there; with a trained weight also what it scales.
        norms = 2 * (FLOAT * a.width + FLOAT + (0 if lora else c * a.width))
        if a.family == "qwen3_vl":
            norms += (FLOAT + (0 if lora else c)) * (a.queries + a.keys) + FLOAT * (a.heads + a.key_heads)
        attention = c * (2 * a.queries + 2 * a.keys) + FLOAT * a.heads
        of_token = norms + attention + 3 * c * a.inner + self._kept_inputs()
        # Each branch has keys and values of its trunk.
        return row.tokens * of_token + 2 * c * a.keys * row.copied

    def _masks(self, row: Row) -> int:
        """Numbers of the mask of branches, for all query heads that share a key head; one for all blocks."""
        return self.a.heads // self.a.key_heads * row.mask

    def _kept_inputs(self) -> int:
        """Of a token: inputs of linear layers that nobody else keeps, and what is between adapters' halves."""
        a, c, lora = self.a, self.c, self.lora
        if not lora:
            return c * (2 * a.width + a.queries + a.inner)
        trained = set(lora.layers)
        if self.kept_in != c:  # peft gives every adapter a copy of its own, in its own type
            return self.kept_in * sum(a.linear[name][0] + lora.rank for name in trained)
        inputs = (
            (a.width, trained & {"q_proj", "k_proj", "v_proj"}),
            (a.queries, trained & {"o_proj"}),
            (a.width, trained & {"gate_proj", "up_proj"}),
            (a.inner, trained & {"down_proj"}),
        )
        return c * (sum(size for size, asked in inputs if asked) + lora.rank * len(trained))

    def reading(self, row: Row) -> int:
        """A pass without gradient over sequences side by side."""
        a, n, keys = self.a, row.tokens, 2 * self.a.keys  # and values
        given = n * (a.width + a.queries + keys)
        # Without branches all once more; of branches their own, their trunks', and both together.
        of_branches = row.said * a.queries + 2 * (row.said + row.copied) * keys
        placed = of_branches or n * (a.queries + keys)
        # Most is there while the mask is made, or when all outputs are put back into the row.
        masks = self._masks(row)
        making = self.c * (n + row.said) * a.queries + masks
        putting = self.c * 3 * n * a.queries
        levels = n * self.c * a.width if a.deepstack else 0  # a block's output before a level was added to it
        return levels + self._reading(n, row.mask + self.c * masks, self.c * (given + placed) + max(making, putting))

    def prefill(self, prompts: int, length: int) -> int:
        """Prompts of one length, side by side, with a mask: keys and values are repeated for every head."""
        n, mask = prompts * length, prompts * length * length
        return self._reading(n, mask, self.c * (n * (self.a.width + 4 * self.a.queries) + mask))

    def _reading(self, n: int, mask: int, attention: int) -> int:
        """The widest place of a block, and what is alive around blocks: embedded tokens, input, angles, the mask."""
        a, c = self.a, self.c
        around = 2 * a.width + 2 * a.head_width
        # An adapter's output is there twice, before and after it is scaled.
        inner = 2 * c + 2 * self.kept_in if self.lora else 3 * c
        return n * c * around + mask + max(n * (inner * a.inner + 2 * c * a.width), attention)

    def kept(self, row: Row, blocks: int, *, checkpointing: bool) -> int:
        """What a pass keeps for its gradient, when it has read all tokens and so many blocks are not turned yet."""
        a, n, c = self.a, row.tokens, self.c
        # The last norm, or the first with adapters, for whose input there is no gradient; rotary angles.
        around = n * (2 * c * a.head_width + (0 if self.lora else (FLOAT + c) * a.width)) + c * self._masks(row)
        if checkpointing:
            return around + row.mask + blocks * n * c * a.width
        return around + blocks * self.kept_of_block(row)

    def turning(self, row: Row, *, checkpointing: bool) -> int:
        """What is there beyond what is kept when the gradient of the last norm or of a block's MLP is computed."""
        a, n, c = self.a, row.tokens, self.c
        extra = c * a.width if self.lora else 0
        norm = n * (4 * FLOAT * a.width + (c * a.width if c != FLOAT else 0) + extra)
        mlp = n * (2 * c * a.inner - FLOAT * a.width + extra)  # the last norm is gone
        return max(norm, mlp + (self.kept_of_block(row) if checkpointing else 0))

    # the vocabulary head

    def chunk(self, t: int) -> int:
        """Logits that are there at once."""
        return min(t, max(1, LOGITS // self.a.vocabulary)) * self.a.vocabulary

    @property
    def _rounded(self) -> int:
        """Bytes of a number that is there in float32 and in another type."""
        return 0 if self.c == FLOAT else self.c

    def scoring(self, t: int, *, entropy: bool) -> int:
        """Log-probabilities, and the entropy if it is asked for, as `stages.model.vocabulary` makes them."""
        logits, tensors = self.chunk(t), 3 if entropy else 2
        if t * self.a.vocabulary > logits:  # in the same memory, whatever is asked
            return logits * (2 * FLOAT + self._rounded) + self.c * t * self.a.width
        return FLOAT * logits * tensors + self.c * t * self.a.width

    def scoring_gradient(self, t: int) -> int:
        """The same for the gradient: of logits and, if it is trained, of the head's matrix, a sum over chunks."""
        logits, c = self.chunk(t), self.c
        if t * self.a.vocabulary > logits:  # the sum in float32, and of another type a part of it
            of_head = 0 if self.lora else FLOAT + self._rounded
            return logits * (FLOAT + self._rounded) + of_head * self.a.embedding + 2 * c * t * self.a.width
        of_head = 0 if self.lora else c
        return max(3 * FLOAT * logits, c * logits + of_head * self.a.embedding) + c * t * self.a.width

    # sampling

    def cache(self, rows: int, length: int) -> int:
        """Keys and values of so many rows of so many tokens."""
        return rows * length * self.a.layers * 2 * self.a.keys * self.c

    def logits(self, rows: int) -> int:
        """Of a token a row, in float32."""
        return FLOAT * rows * self.a.vocabulary

    def attending(self, prompts: int, prompt: int, rows: int, new: int) -> int:
        """A token a row looks at its prompt and at what the row has said: products apart and together, softmax.

        All is float32; of bfloat16, a block's keys and values are copied.
        """
        products = 3 * FLOAT * rows * self.a.heads * (prompt + new)
        copied = 0 if self.c == FLOAT else FLOAT * 2 * self.a.keys * (prompts * prompt + rows * new)
        return products + copied

    def drawing(self, rows: int, cut: int) -> int:
        """A token a row is drawn from its logits.

        Args:
            rows: all.
            cut: of these, the ones with top_p.
        """
        # Logits and weights, or the logits of two tokens; with top_p, sorted in float64, with their places.
        two = 2 * self.logits(rows)
        rounded = 0 if self.c == FLOAT else self.c * rows
        return two + self.a.vocabulary * max(rounded, cut * (FLOAT + 5 * DOUBLE + 1))

    # the vision tower

    def looking(self, patches: int) -> int:
        """One picture without gradient."""
        a, c = self.a, self.c
        inner = 3 if a.family == "qwen2_5_vl" else 2
        mlp = c * (2 * a.vision_width + inner * a.vision_inner)
        # Rotary positions are turned in float32.
        attention = c * 5 * a.vision_width + FLOAT * 4 * a.vision_width
        return patches * max(mlp, attention)

    def features(self, tokens: int) -> int:
        """What is kept of a picture of so many image tokens."""
        return tokens * self.a.width * self.c * (1 + self.a.deepstack)
