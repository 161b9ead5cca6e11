"""A model in numbers, read from its config.json: how many parameters there are, and where. No weights, no torch.

Letters: H width of the language model, I of its MLP, A all query heads, K all key heads, W words of the vocabulary;
E width of the vision tower, J of its MLP, M of four merged patches.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.config import Recipe

KNOWN = Path(__file__).parent / "architectures"


@dataclass(frozen=True)
class Architecture:
    """The sizes of a Qwen2-VL, Qwen2.5-VL or Qwen3-VL model.

    Attributes:
        family: `model_type` of its config.json.
        width, inner, layers, heads, key_heads, head_width, vocabulary: of the language model.
        tied: embedding and vocabulary head are one matrix.
        vision_width, vision_inner, vision_layers, vision_heads: of the vision tower.
        patch: pixels of a patch's side.
        merge: patches of an image token's side.
        patch_values: numbers of a patch.
        deepstack: layers of the language model that are given features of their own.
        positions: learnt positions of the vision tower.
    """

    family: str
    width: int
    inner: int
    layers: int
    heads: int
    key_heads: int
    head_width: int
    vocabulary: int
    tied: bool
    vision_width: int
    vision_inner: int
    vision_layers: int
    vision_heads: int
    patch: int
    merge: int
    patch_values: int
    deepstack: int
    positions: int

    @property
    def queries(self) -> int:
        """Width of all query heads together: A."""
        return self.heads * self.head_width

    @property
    def keys(self) -> int:
        """Width of all key heads together: K."""
        return self.key_heads * self.head_width

    @property
    def linear(self) -> dict[str, tuple[int, int]]:
        """(in, out) of the linear layers of a block."""
        h, i, a, k = self.width, self.inner, self.queries, self.keys
        return {
            "q_proj": (h, a),
            "k_proj": (h, k),
            "v_proj": (h, k),
            "o_proj": (a, h),
            "gate_proj": (h, i),
            "up_proj": (h, i),
            "down_proj": (i, h),
        }

    @property
    def block(self) -> int:
        """Parameters of a block of the language model."""
        # Qwen3 has no biases, and normalises each head's queries and keys.
        extra = 2 * self.head_width if self.family == "qwen3_vl" else self.queries + 2 * self.keys
        return sum(a * b for a, b in self.linear.values()) + extra + 2 * self.width

    @property
    def embedding(self) -> int:
        """Parameters of the embedding, and as many of the vocabulary head."""
        return self.vocabulary * self.width

    @property
    def ends(self) -> int:
        """Parameters of the language model outside its blocks."""
        return self.embedding * (1 if self.tied else 2) + self.width

    @property
    def language(self) -> int:
        """Parameters of the language model, vocabulary head and all: what is trained."""
        return self.layers * self.block + self.ends

    @property
    def vision(self) -> int:
        """Parameters of the vision tower and the connector, which are frozen."""
        e, j, h = self.vision_width, self.vision_inner, self.width
        m = e * self.merge**2
        attention = 4 * e * e + 4 * e
        merger = m * m + m + m * h + h
        if self.family == "qwen2_5_vl":
            return e * self.patch_values + self.vision_layers * (2 * e + attention + 3 * e * j + 2 * j + e) + merger + e
        layers = self.vision_layers * (4 * e + attention + 2 * e * j + j + e)
        if self.family == "qwen2_vl":
            return e * self.patch_values + layers + merger + 2 * e
        patches = e * self.patch_values + e + self.positions * e
        return patches + layers + merger + 2 * e + self.deepstack * (merger + 2 * m)

    def image_tokens(self, pixels: int) -> int:
        """Of a picture of so many pixels."""
        return pixels // (self.patch * self.merge) ** 2


def read_architecture(config: dict[str, Any]) -> Architecture:
    """What a config.json says, as the hub has it or as `save_pretrained` writes it.

    Raises:
        ValueError: it is of another family.
    """
    family, vision = config.get("model_type"), config["vision_config"]
    text = config.get("text_config") or config
    if family not in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"):
        raise ValueError(f"model_type {family!r} (known: qwen2_vl, qwen2_5_vl, qwen3_vl)")
    width = vision["embed_dim" if family == "qwen2_vl" else "hidden_size"]
    channels = vision["in_channels"] if "in_channels" in vision else vision["in_chans"]
    return Architecture(
        family=family,
        width=text["hidden_size"],
        inner=text["intermediate_size"],
        layers=text["num_hidden_layers"],
        heads=text["num_attention_heads"],
        key_heads=text["num_key_value_heads"],
        head_width=text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"],
        vocabulary=text["vocab_size"],
        tied=config["tie_word_embeddings"],
        vision_width=width,
        vision_inner=int(width * vision["mlp_ratio"]) if family == "qwen2_vl" else vision["intermediate_size"],
        vision_layers=vision["depth"],
        vision_heads=vision["num_heads"],
        patch=vision["patch_size"],
        merge=vision["spatial_merge_size"],
        patch_values=channels * vision["temporal_patch_size"] * vision["patch_size"] ** 2,
        deepstack=len(vision.get("deepstack_visual_indexes", ())),
        positions=vision.get("num_position_embeddings", 0),
    )


def known_architecture(repo: str) -> Architecture | None:
    """Of a repository of the hub, if it is one of those in `architectures`."""
    name = repo.split("/")[-1].removesuffix("-Instruct").lower().replace("-", "_").replace(".", "_")
    path = KNOWN / f"{name}.json"
    return read_architecture(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def recipe_architecture(recipe: Recipe) -> Architecture:
    """Of a model that is built by `stages.model.tiny`, with the largest vocabulary that it can have."""
    heads = recipe.hidden_size // 32
    levels = recipe.architecture == "qwen3_vl"
    return Architecture(
        family=recipe.architecture,
        width=recipe.hidden_size,
        inner=2 * recipe.hidden_size,
        layers=recipe.layers,
        heads=heads,
        key_heads=max(1, heads // 2),
        head_width=32,
        vocabulary=640,
        tied=True,
        vision_width=recipe.vision_size,
        vision_inner=2 * recipe.vision_size,
        vision_layers=recipe.vision_layers,
        vision_heads=4,
        patch=8,
        merge=2,
        patch_values=3 * 2 * 8**2,
        deepstack=min(recipe.layers, recipe.vision_layers) if levels else 0,
        positions=64 if levels else 0,
    )
