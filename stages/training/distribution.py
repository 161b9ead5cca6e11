"""A model on the processes that train it together: weights cut into parts, or all of them everywhere."""

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from stages.model.logprobs import Scorer
from stages.training.world import World


def distributed(scorer: Scorer, world: World, kept_in: torch.dtype | None = None) -> nn.Module:
    """The same model for several processes, or for one that keeps its weights more exactly than it computes.

    The vision tower never changes and stays as it is, whole.

    Args:
        scorer: the model, in the type that it computes in.
        world: the processes. If it is sharded, each holds a part of the weights (FSDP2).
        kept_in: the type of the trained weights, of their gradient and of the optimiser's state, if it is another.
    """
    computed_in = scorer.model.dtype
    other = kept_in if kept_in != computed_in else None
    trained = any(weight.requires_grad for weight in scorer.parameters())
    if not other and not (world.sharded and world.size > 1):
        return DistributedDataParallel(scorer) if trained and world.size > 1 else scorer
    policy = MixedPrecisionPolicy(param_dtype=computed_in, reduce_dtype=other) if other else MixedPrecisionPolicy()
    model = scorer.model
    mesh = mesh_of(world, model.device)
    vision = set(model.model.visual.parameters())
    for part in (*model.model.language_model.layers, scorer):
        # Block by block, so that the whole model is never there in both types.
        for weight in set(part.parameters()) - vision if other else ():
            if weight.dtype == computed_in:
                weight.data = weight.data.to(other)
        # What is outside blocks would wait for a gradient that a reference does not get.
        gives_up = None if trained else True
        fully_shard(part, mesh=mesh, mp_policy=policy, ignored_params=vision, reshard_after_forward=gives_up)
    return scorer


def mesh_of(world: World, device: torch.device) -> DeviceMesh:
    """All processes along one axis if each has a part; along two, copies times parts, if each has all."""
    if not torch.distributed.is_initialized():  # alone; FSDP2 wants a group all the same
        alone = torch.distributed.HashStore()  # type: ignore[attr-defined]
        backend = "nccl" if device.type == "cuda" else "gloo"
        torch.distributed.init_process_group(backend, rank=0, world_size=1, store=alone)
    if world.sharded or world.size == 1:
        return init_device_mesh(device.type, (world.size,))
    return init_device_mesh(device.type, (world.size, 1), mesh_dim_names=("copies", "parts"))
