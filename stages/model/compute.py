"""How torch computes in every stage that uses it."""

import os

import torch

from stages.config import Compute


def set_up(compute: Compute) -> None:
    """Threads as the run says, and only algorithms that give the same numbers each time.

    Raises:
        ValueError: it asks for a GPU, and none can be seen.
    """
    if compute.device == "cuda" and not torch.cuda.is_available():
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        raise ValueError(
            f"compute.device: cuda, but this job sees no GPU (CUDA_VISIBLE_DEVICES={seen!r}); is snakemake limited to "
            "fewer (--resources gpu=N), or torch a build without CUDA?"
        )
    torch.set_num_threads(compute.threads)
    if compute.device == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=compute.device == "cuda")
    # Filling every new tensor would find reads of memory never written; here it only costs a quarter of the time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
