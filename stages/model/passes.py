"""What passes through a model take beside its weights, in bytes: activations, caches, logits. Counted, not measured.

Each count follows the tensors of transformers' Qwen classes and of this project's own code, at the moment when most of
them are alive. docs/memory.md says how, and how far from the truth it is.

Letters: B rows; L tokens of the longest row; N tokens of a pass; T tokens that are scored; the rest as in
`stages.model.architecture`. c bytes of a number of the pass.
"""

from dataclasses import dataclass

from stages.config import LoRA
from stages.model.architecture import Architecture

FLOAT, DOUBLE = 4, 8
# As `stages.model.vocabulary.LOGITS`, which a test compares: this file must not import torch.
LOGITS = 2**26


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

    def kept_of_block(self) -> int:
        """Of a token: what a block keeps for its gradient."""
        a, c, lora = self.a, self.c, self.lora
        # An RMSNorm computes in float32 and keeps its input there; with a trained weight also what it scales.
        norms = 2 * (FLOAT * a.width + FLOAT + (0 if lora else c * a.width))
        if a.family == "qwen3_vl":
            norms += (FLOAT + (0 if lora else c)) * (a.queries + a.keys) + FLOAT * (a.heads + a.key_heads)
        attention = c * (2 * a.queries + 2 * a.keys) + FLOAT * a.heads
        return norms + attention + 3 * c * a.inner + self._kept_inputs()

    def _kept_inputs(self) -> int:
        """Of a token: inputs of linear layers that nobody else keeps, and what is between adapters' halves."""
        a, c, lora = self.a, self.c, self.lora
        if not lora:
            return c * (2 * a.width + a.inner)
        trained = set(lora.layers)
        if self.kept_in != c:  # peft gives every adapter a copy of its own, in its own type
            return self.kept_in * sum(a.linear[name][0] + lora.rank for name in trained)
        inputs = (
            (a.width, trained & {"q_proj", "k_proj", "v_proj"}),
            (a.width, trained & {"gate_proj", "up_proj"}),
            (a.inner, trained & {"down_proj"}),
        )
        return c * (sum(size for size, asked in inputs if asked) + lora.rank * len(trained))

    def reading(self, n: int) -> int:
        """A pass without gradient: the widest place of a block, and what is alive around the blocks."""
        a, c = self.a, self.c
        mlp = c * (3 * a.inner + a.width)
        attention = c * (a.width + 5 * a.queries + 3 * a.keys)
        around = c * (2 * a.width + 2 * a.head_width)
        return n * (around + max(mlp, attention))

    def kept(self, n: int, *, checkpointing: bool) -> int:
        """What a pass keeps for its gradient, when it has read all tokens."""
        a, c = self.a, self.c
        # Embedded tokens; the last norm; rotary angles.
        around = FLOAT * a.width + 3 * c * a.width + 2 * c * a.head_width
        return n * (around + a.layers * (c * a.width if checkpointing else self.kept_of_block()))

    def turning(self, n: int, *, checkpointing: bool) -> int:
        """What a block takes beyond what is kept, when its gradient is computed."""
        a, c = self.a, self.c
        gradients = n * c * (2 * a.inner + 2 * a.width)
        of_weight = 0 if self.lora else c * a.inner * a.width
        return gradients + of_weight + (n * self.kept_of_block() if checkpointing else 0)

    # the vocabulary head

    def chunk(self, t: int) -> int:
        """Logits that are there at once."""
        return min(t, max(1, LOGITS // self.a.vocabulary)) * self.a.vocabulary

    def scoring(self, t: int, *, entropy: bool) -> int:
        """Log-probabilities, and the entropy if it is asked for, as `stages.model.vocabulary` makes them."""
        return FLOAT * self.chunk(t) * (3 if entropy else 2) + self.c * t * self.a.width

    def scoring_gradient(self, t: int) -> int:
        """The same for the gradient: of logits and, if it is trained, of the head's matrix, a sum over chunks."""
        logits, c = self.chunk(t), self.c
        chunks = -(-t * self.a.vocabulary // logits)
        if self.lora:
            of_head = 0
        elif chunks == 1:
            of_head = c
        else:  # the sum in float32, and a part of it
            of_head = 2 * FLOAT
        return max(3 * FLOAT * logits, c * logits + of_head * self.a.embedding) + c * t * self.a.width

    # sampling

    def cache(self, rows: int, length: int) -> int:
        """Keys and values of so many rows of so many tokens."""
        return rows * length * self.a.layers * 2 * self.a.keys * self.c

    def prefill(self, rows: int, length: int) -> int:
        """Prompts of one length, side by side, with a mask: keys and values are repeated for every head."""
        a, c = self.a, self.c
        masked = rows * length * length * (1 + c) + rows * length * c * (2 * a.width + 3 * a.queries + 2 * a.keys)
        return max(self.reading(rows * length), masked + rows * length * c * (a.width + 2 * a.head_width))

    def choosing(self, rows: int, *, top_p: bool) -> int:
        """Drawing a token a row from its logits, in float64; with top_p they are sorted."""
        numbers = FLOAT + 3 * DOUBLE + (5 * DOUBLE if top_p else 0)
        return rows * self.a.vocabulary * numbers

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
