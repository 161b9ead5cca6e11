"""What learns: the policy, on one process or several, with AdamW, warm-up and cosine decay."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel, get_cosine_schedule_with_warmup

from stages.config import Optimizer
from stages.model.logprobs import Scorer
from stages.training.world import World


class Learner:
    """The policy with its optimiser, schedule and gradient clipping.

    Args:
        model: its weights that require a gradient are trained, in place. If the world is sharded, they are cut into
            parts here, and the model can then only be run by `policy`.
        settings: paper, Appendix A.
        total_steps: updates of the whole run; the learning rate reaches 0 after the last.
        world: the processes that learn together; each brings the gradient of its rows.
    """

    def __init__(self, model: PreTrainedModel, settings: Optimizer, total_steps: int, world: World) -> None:
        self.world = world
        self.policy = distributed(Scorer(model), world)
        self.weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.clip_grad_norm = settings.clip_grad_norm
        self.optimizer = torch.optim.AdamW(
            self.weights.values(),
            lr=settings.learning_rate,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
        )
        self.scheduler = get_cosine_schedule_with_warmup(
            self.optimizer, num_warmup_steps=round(settings.warmup_ratio * total_steps), num_training_steps=total_steps
        )

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this process's share of a loss that is the sum of all shares."""
        (loss * self.world.size).backward()  # DDP and FSDP2 take the mean over processes

    def step(self) -> tuple[float, float]:
        """Clip, update and clear the gradient.

        Returns:
            The gradient's norm before clipping, and the learning rate of this update.
        """
        lr = self.scheduler.get_last_lr()[0]
        grad_norm = nn.utils.clip_grad_norm_(self.weights.values(), self.clip_grad_norm)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        return float(whole(grad_norm)), float(lr)

    def whole_weights(self) -> Iterator[tuple[str, Tensor]]:
        """The trained weights one by one, each put together where it is sharded; every process has to ask."""
        for name, weight in self.weights.items():
            yield name, whole(weight)

    def tensors(self) -> dict[str, Tensor]:
        """All that an update changes, by name: what is written into them is what training goes on with."""
        found = {}
        for name, weight in self.weights.items():
            state = self.optimizer.state[weight]
            if not state:  # what AdamW itself would begin with
                state["step"] = torch.tensor(0.0)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)
            found[f"weight.{name}"] = weight.detach()
            found |= {f"{key}.{name}": value for key, value in state.items()}
        return found

    def schedule(self) -> dict[str, Any]:
        """Where the learning rate is, as plain numbers."""
        return {key: value for key, value in self.scheduler.state_dict().items() if key != "lr_lambdas"}

    def go_on(self, schedule: dict[str, Any]) -> None:
        """Put the learning rate where it was."""
        self.scheduler.load_state_dict(schedule | {"lr_lambdas": [None] * len(self.scheduler.lr_lambdas)})
        for group, lr in zip(self.optimizer.param_groups, self.scheduler.get_last_lr(), strict=True):
            group["lr"] = lr


def distributed(scorer: Scorer, world: World) -> nn.Module:
    """The same model for several processes: weights cut into parts, or all of them everywhere and gradients averaged.

    The vision tower never changes and stays whole.
    """
    if world.size == 1:
        return scorer
    trained = any(weight.requires_grad for weight in scorer.parameters())
    if not world.sharded:
        return DistributedDataParallel(scorer) if trained else scorer
    model = scorer.model
    mesh = init_device_mesh(model.device.type, (world.size,))
    for layer in model.model.language_model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(scorer, mesh=mesh, ignored_params=set(model.model.visual.parameters()))
    return scorer


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor put together; any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
