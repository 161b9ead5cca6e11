"""What learns: the policy, on one process or several, with AdamW, warm-up and cosine decay."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, get_cosine_schedule_with_warmup

from stages.config import Optimizer
from stages.model.logprobs import Scorer
from stages.model.lora import language_weights
from stages.training.distribution import distributed
from stages.training.errors import StepError
from stages.training.world import World


class Learner:
    """The policy with its optimiser, schedule and gradient clipping.

    Args:
        model: its weights that require a gradient are trained, in place. If the world is sharded, they are cut into
            parts here, and the model can then only be run by `policy`.
        settings: paper, Appendix A.
        total_steps: updates of the whole run; the learning rate reaches 0 after the last.
        world: the processes that learn together; each brings the gradient of its rows.
        kept_in: the type of trained weights, gradient and AdamW's moments, if it is not the one the model computes in.
            The model can then only be run by `policy`, too.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        settings: Optimizer,
        total_steps: int,
        world: World,
        *,
        kept_in: torch.dtype | None = None,
    ) -> None:
        self.world = world
        self.model = model
        self.used_in = model.dtype if kept_in else None
        self.policy = distributed(Scorer(model), world, kept_in)
        self.weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.clip_grad_norm = settings.clip_grad_norm
        self.optimizer = torch.optim.AdamW(
            self.weights.values(),
            lr=settings.learning_rate,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
            fused=True,  # one pass over weights, gradient and moments
        )
        self.scheduler = get_cosine_schedule_with_warmup(
            self.optimizer, num_warmup_steps=round(settings.warmup_ratio * total_steps), num_training_steps=total_steps
        )

    def backward(self, loss: Tensor, problems: Sequence[str]) -> None:
        """Add the gradient of this process's share of a loss that is the sum of all shares.

        Args:
            loss: a number.
            problems: ids of those it is of.

        Raises:
            StepError: the loss is not finite.
        """
        _check_finite("loss", loss.item(), problems)
        (loss * self.world.size).backward()  # DDP and FSDP2 take the mean over processes

    def step(self, problems: Sequence[str]) -> tuple[float, float]:
        """Clip, update and clear the gradient.

        Args:
            problems: ids of those that this process has learnt from in this update.

        Returns:
            The gradient's norm before clipping, and the learning rate of this update.

        Raises:
            StepError: the norm is not finite; no weight is changed.
        """
        lr = self.scheduler.get_last_lr()[0]
        grad_norm = whole(nn.utils.clip_grad_norm_(self.weights.values(), self.clip_grad_norm)).item()
        _check_finite("norm of the gradient", grad_norm, problems)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        return grad_norm, float(lr)

    def language_weights(self) -> Iterator[tuple[str, Tensor]]:
        """The language model's weights one by one, as a sampler takes them over; every process has to ask."""
        for name, weight in language_weights(self.model):
            yield name, whole(weight)

    def whole_weights(self) -> Iterator[tuple[str, Tensor]]:
        """The trained weights one by one, whole, in the type that they are used in; every process has to ask."""
        for name, weight in self.weights.items():
            yield name, whole(weight).to(self.used_in or weight.dtype)

    def tensors(self) -> dict[str, Tensor]:
        """All that an update changes, by name: what is written into them is what training goes on with."""
        found = {}
        for name, weight in self.weights.items():
            state = self.optimizer.state[weight]
            if not state:  # what AdamW itself would begin with
                state["step"] = torch.zeros((), device=weight.device)
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


def _check_finite(what: str, value: float, problems: Sequence[str]) -> None:
    if not math.isfinite(value):
        named = ", ".join(dict.fromkeys(problems))
        raise StepError(f"the {what} is {value}, with problems {named} (a smaller learning_rate?)")


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor put together; any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
