"""AdamW with warm-up and cosine decay over the weights that train."""

import torch
from torch import nn
from transformers import PreTrainedModel, get_cosine_schedule_with_warmup

from stages.config import Optimizer


class Optimization:
    """Optimiser, schedule and gradient clipping of one run.

    Args:
        model: its weights that require a gradient are trained.
        settings: paper, Appendix A.
        total_steps: updates of the whole run; the learning rate reaches 0 after the last.
    """

    def __init__(self, model: PreTrainedModel, settings: Optimizer, total_steps: int) -> None:
        self.weights = [weight for weight in model.parameters() if weight.requires_grad]
        self.clip_grad_norm = settings.clip_grad_norm
        self.optimizer = torch.optim.AdamW(
            self.weights,
            lr=settings.learning_rate,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
        )
        self.scheduler = get_cosine_schedule_with_warmup(
            self.optimizer, num_warmup_steps=round(settings.warmup_ratio * total_steps), num_training_steps=total_steps
        )

    def step(self) -> tuple[float, float]:
        """Clip, update and clear the gradient.

        Returns:
            The gradient's norm before clipping, and the learning rate of this update.
        """
        lr = self.scheduler.get_last_lr()[0]
        grad_norm = nn.utils.clip_grad_norm_(self.weights, self.clip_grad_norm)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        return float(grad_norm), float(lr)
