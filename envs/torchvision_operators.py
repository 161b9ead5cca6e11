"""A part of `.venv/vllm` (`make vllm`), imported when its Python starts: torchvision's wheels are built for CUDA.

A CPU-only torch cannot import them before it knows two of their operators. They are declared when torchvision is
imported, so that a Python that needs no torch does not load it.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

OPERATORS = ("nms", "qnms")
KEPT: list[object] = []  # a library that is collected takes its operators with it


class _BeforeTorchvision(MetaPathFinder):
    """Is asked first, once, and finds what the others do."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "torchvision":
            return None
        sys.meta_path.remove(self)
        found = find_spec(fullname)
        if found and found.origin and "+cu" in Path(found.origin).with_name("version.py").read_text():
            _declare()
        return found


def _declare() -> None:
    import torch

    if torch.version.cuda is None and not hasattr(torch.ops.torchvision, OPERATORS[0]):
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in OPERATORS:
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        KEPT.append(library)


sys.meta_path.insert(0, _BeforeTorchvision())
