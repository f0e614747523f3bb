"""Parameter groups, optimisers, learning-rate schedules as pure functions of the step, EMA."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from nmt.errors import UserError

Schedule = Callable[[int], float]

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What Adam keeps of each parameter."""


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Trained parameters in two groups: matrices decay; biases, norms and embeddings do not.

    A matrix that is tied to an embedding is an embedding.
    """
    embeddings = {
        id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)
    }
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            decays = parameter.ndim > 1 and id(parameter) not in embeddings
            (decayed if decays else plain).append(parameter)
    groups: list[dict[str, object]] = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(
    name: str,
    model: nn.Module,
    *,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> torch.optim.Optimizer:
    """``adam`` (Kingma & Ba 2015) or ``adamw`` (Loshchilov & Hutter 2019).

    Weight decay joins the gradient in ``adam`` and stays apart from it in ``adamw``. Always the
    fused kernel: at 7.8 M parameters on one core it takes 14 ms a step, the others 50 to 59 ms,
    and it can skip a step on the device, without asking the host (see learner.py). The learning
    rate is set before every step.

    Raises:
        UserError: unknown name.
    """
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    if name not in kinds:
        raise UserError(f"unknown optim.name={name}; there are {', '.join(kinds)}")
    groups = parameter_groups(model, weight_decay)
    kind = kinds[name]
    made: torch.optim.Optimizer = kind(groups, lr=0.0, betas=betas, eps=eps, fused=True)
    return made


def make_schedule(
    name: str,
    *,
    learning_rate: float,
    warmup: int,
    max_steps: int | None = None,
    final_ratio: float = 0.0,
) -> Schedule:
    """Step (the first update is step 1) -> learning rate.

    All schedules rise linearly to ``learning_rate`` at step ``warmup``. Then, with s the step:

    - ``constant``: stays.
    - ``inverse_sqrt``: learning_rate x sqrt(warmup / s) (Vaswani et al. 2017, eq. 3, with the
      peak instead of the width as the constant).
    - ``linear``, ``cosine``: falls to ``final_ratio`` x learning_rate at ``max_steps`` (cosine:
      Loshchilov & Hutter 2017, eq. 5, one cycle) and stays there.

    Raises:
        UserError: unknown name; linear or cosine without an end behind the warm-up.
    """
    if name not in ("constant", "inverse_sqrt", "linear", "cosine"):
        raise UserError(
            f"unknown optim.schedule={name}; there are inverse_sqrt, cosine, linear, constant"
        )
    if name in ("linear", "cosine") and (max_steps is None or max_steps <= warmup):
        raise UserError(
            f"optim.schedule={name} needs an end: set train.max_steps above "
            f"optim.warmup={warmup}, or take inverse_sqrt or constant"
        )
    end = max_steps or 0
    first = max(warmup, 1)  # inverse_sqrt without warm-up starts at its peak

    def rate(step: int) -> float:
        if step <= warmup:
            return learning_rate * step / warmup
        if name == "constant":
            return learning_rate
        if name == "inverse_sqrt":
            return learning_rate * math.sqrt(first / step)
        progress = min(1.0, (step - warmup) / (end - warmup))
        fall = 1 - progress if name == "linear" else (1 + math.cos(math.pi * progress)) / 2
        return learning_rate * (final_ratio + (1 - final_ratio) * fall)

    return rate


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """One learning rate for all groups."""
    for group in optimizer.param_groups:
        group["lr"] = value


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state by ``<quantity>/<parameter name>``, for a checkpoint."""
    return {
        f"{quantity}/{name}": value
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state
        for quantity, value in optimizer.state[parameter].items()
    }


def put_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """Give the optimiser the state that ``optimizer_tensors`` read.

    Raises:
        UserError: the state belongs to other parameters, or a part of it is missing.
    """
    parameters = dict(model.named_parameters())
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        quantity, _, name = key.partition("/")
        parameter = parameters.get(name)
        shape = torch.Size() if quantity == "step" else parameter is not None and parameter.shape
        known = quantity in MOMENTS and tensor.is_floating_point()
        if parameter is None or not known or tensor.shape != shape:
            raise UserError(
                f"the checkpoint's optimiser state {key} {list(tensor.shape)} does not fit"
            )
        found.setdefault(name, {})[quantity] = tensor.to(parameter.device)
    for name, quantities in found.items():
        if missing := set(MOMENTS) - quantities.keys():
            raise UserError(
                f"the checkpoint's optimiser state of {name} lacks {', '.join(sorted(missing))}"
            )
        optimizer.state[parameters[name]] = dict(quantities)


class MovingAverage:
    """Exponential moving average of a model's weights: e <- e + (1 - d) (w - e) after each step.

    The decay d rises as (1 + step) / (10 + step) to its final value, so that the first weights do
    not linger (Abadi et al. 2015, ExponentialMovingAverage).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._weights = [parameter.detach() for parameter in model.parameters()]
        self._names = [name for name, _ in model.named_parameters()]
        self._averages = [weight.clone() for weight in self._weights]

    @torch.no_grad()
    def restart(self) -> None:
        """Take the model's present weights for the average."""
        for average, weight in zip(self._averages, self._weights, strict=True):
            average.copy_(weight)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after update ``step``."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._averages, self._weights, 1 - decay)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Inside, the model holds the average."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def tensors(self) -> dict[str, Tensor]:
        """The average (inside ``swapped``: the raw weights) by parameter name."""
        return dict(zip(self._names, self._averages, strict=True))

    @torch.no_grad()
    def _swap(self) -> None:
        for weight, average in zip(self._weights, self._averages, strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)
