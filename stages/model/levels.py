"""A picture's features of several levels as one tensor, so that whatever keeps or passes them need not know of levels.

Qwen3-VL's language model takes what the vision tower has made at some of its blocks beside what it makes at its end
("deepstack"): the first goes to the image tokens, each other is added to them behind one of the first blocks.

Letters: V image tokens, H width of the language model, D levels beyond the last; 0 in Qwen2-VL and Qwen2.5-VL.
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures


def joined(seen: BaseModelOutputWithPooling) -> Tensor:
    """[V, H * (1 + D)] of a vision tower's output: the last level, then the others from the lowest up."""
    return torch.cat([seen.pooler_output, *getattr(seen, "deepstack_features", [])], dim=1)


def parted(features: Iterable[Tensor], width: int) -> BaseModelOutputWithDeepstackFeatures:
    """The output that a model takes instead of pictures.

    Args:
        features: of each picture, [V, H * (1 + D)].
        width: H.
    """
    last, *others = zip(*(picture.split(width, dim=1) for picture in features), strict=True)
    return BaseModelOutputWithDeepstackFeatures(pooler_output=last, deepstack_features=others)
