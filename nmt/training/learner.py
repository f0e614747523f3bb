"""The arithmetic of one update: micro-batches, one division, clip, check, step, EMA.

The loss of each micro-batch is a sum, divided by the target tokens of the whole update: over all
micro-batches and all processes. That number is known from the plan, so no device is asked for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from nmt.data.batching import Batch, Cursor, Epoch, derive_seed, share, update_of
from nmt.errors import UserError
from nmt.files import json_bytes, replace_file
from nmt.models.seq2seq import Seq2Seq, Source, Trace
from nmt.training.checkpoint import Saved, put_weights
from nmt.training.distributed import World
from nmt.training.loss import CrossLosses, label_smoothed_cross_entropy
from nmt.training.optim import (
    MovingAverage,
    optimizer_tensors,
    put_optimizer,
    set_learning_rate,
)

MAX_BAD_UPDATES = 10  # non-finite updates in a row before training stops


class Counters(Protocol):
    """What ``Learner.check`` keeps up to date."""

    step: int
    skipped: int
    skipped_in_a_row: int


@dataclass(frozen=True)
class Update:
    """The micro-batches of one update over all processes, and what is known before it runs."""

    epoch: int
    micro_batches: list[tuple[int, np.ndarray]]  # (position in the plan, pairs); pairs may be empty
    target_tokens: int

    @classmethod
    def at(cls, epoch: Epoch, cursor: Cursor, *, accumulate: int) -> Update:
        """The update at a place of the plan."""
        batches = update_of(epoch.plan, cursor.consumed, accumulate=accumulate)
        return cls(cursor.epoch, batches, sum(epoch.target_tokens(pairs) for _, pairs in batches))


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """The compute precision for ``auto``, ``fp32``, ``bf16`` or ``fp16``; weights stay float32.

    ``auto`` takes bfloat16 where the hardware multiplies it faster than float32: GPUs from compute
    capability 8, CPUs with AVX512-BF16 or AMX (2.5 times on the one measured); else float32.

    Raises:
        UserError: unknown name; fp16 anywhere but on a CUDA GPU, where its gradients are scaled.
    """
    if name == "auto":
        if device.type == "cuda":
            fast = torch.cuda.get_device_capability(device) >= (8, 0)
        elif device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
            can = torch.cpu.get_capabilities()
            fast = bool(can.get("avx512_bf16") or can.get("amx_bf16"))
        else:
            fast = False
        return torch.bfloat16 if fast else torch.float32
    if name == "fp16" and device.type != "cuda":
        raise UserError(f"train.precision=fp16 needs a CUDA GPU, not {device.type}: take auto")
    precisions = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if name not in precisions:
        raise UserError(f"unknown train.precision={name}; there are auto, {', '.join(precisions)}")
    return precisions[name]


class Objective(nn.Module):
    """Model and loss as one module, so that what DDP wraps is all of forward."""

    def __init__(self, model: Seq2Seq, smoothing: float, cross_losses: CrossLosses) -> None:
        super().__init__()
        self.model = model
        self.smoothing = smoothing
        self.cross_losses = cross_losses

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sums over the batch's target tokens: (all losses, negative log-likelihood)."""
        source = Source(batch.source_BS, batch.source_keep_BS)
        cross: Trace = [] if self.cross_losses else None
        hidden_BTD = self.model(source, batch.target_in_BT, cross)
        sums = label_smoothed_cross_entropy(
            self.model.project,
            hidden_BTD,
            batch.target_out_BT,
            batch.kept_N,
            smoothing=self.smoothing,
        )
        if cross is None:
            return sums.loss, sums.nll
        more = self.cross_losses.total(cross, batch.aligned_BTS, batch.target_keep_BT)
        return sums.loss + more, sums.nll


class Learner:
    """A model that learns: its objective, optimiser, gradient scaler and moving average.

    The scaler does two jobs. For fp16 it scales the loss; in every precision it looks for
    non-finite gradients and makes the fused optimiser skip the step, all on the device, so that
    the host need not wait for the answer.

    Args:
        model: on ``world.device``; the same weights on every rank.
        clip: largest norm of the gradient of the mean loss per target token; None does not clip.
        precision: of the computation, see ``resolve_precision``.
        cross_losses: losses on cross-attention weights, added to that of the target tokens.
        ema: decay of the moving average; 0 keeps none.
        compile: run the model's forward through ``torch.compile`` (shapes vary).
    """

    def __init__(
        self,
        model: Seq2Seq,
        optimizer: torch.optim.Optimizer,
        *,
        world: World,
        label_smoothing: float = 0.0,
        cross_losses: CrossLosses | None = None,
        clip: float | None = None,
        precision: torch.dtype = torch.float32,
        ema: float = 0.0,
        compile: bool = False,
    ) -> None:
        if compile:
            model.compile(dynamic=True)
        self.model = model
        self.optimizer = optimizer
        self.world = world
        self.precision = precision
        self.clip = clip
        self.objective = world.wrap(
            Objective(model, label_smoothing, cross_losses or CrossLosses())
        )
        self.average = MovingAverage(model, ema) if ema else None
        self.scales_loss = precision == torch.float16
        first_scale = 2.0**16 if self.scales_loss else 1.0
        self.scaler = torch.amp.GradScaler(world.device.type, init_scale=first_scale)
        self.sums = torch.zeros(2, dtype=torch.float64, device=world.device)  # loss, nll
        self.bad = torch.zeros(2, dtype=torch.int64, device=world.device)  # in a row, in all
        self.norm = torch.zeros((), device=world.device)

    def learn(self, epoch: Epoch, update: Update, *, seed: int, step: int, rate: float) -> None:
        """Run this rank's share of an update and take the optimiser's step."""
        set_learning_rate(self.optimizer, rate)
        mine = share(update.micro_batches, rank=self.world.rank, world=self.world.size)
        for number, (position, pairs) in enumerate(mine, start=1):
            syncs = self.world.size > 1 and number == len(mine)
            if len(pairs) or syncs:  # an empty micro-batch runs only where other ranks wait for it
                torch.manual_seed(derive_seed(seed, update.epoch, position))
                self.backward(epoch.batch(pairs), update.target_tokens, last=number == len(mine))
        self.step(step)

    def rehearse(self, batch: Batch) -> None:
        """Run a batch forward and backward and forget it: does it fit into the memory?

        Room for the optimiser's moments is taken meanwhile. Weights, gradients, sums and random
        generators are afterwards what they were.

        Raises:
            UserError: it does not fit.
        """
        learnt = [p for p in self.model.parameters() if p.requires_grad]
        cuda = self.world.device.type == "cuda"
        with torch.random.fork_rng([self.world.device] if cuda else []):
            moments = [torch.empty_like(p) for p in (*learnt, *learnt)]
            sums = self.sums.clone()
            self.backward(batch, max(1, batch.target_tokens), last=False)
            self.sums = sums
            self.optimizer.zero_grad(set_to_none=True)
            del moments

    def backward(self, batch: Batch, update_tokens: int, *, last: bool) -> None:
        """Add the gradient of this batch's share of the update's mean loss."""
        batch = batch.to(self.world.device)
        device, mixed = self.world.device.type, self.precision != torch.float32
        try:
            with self.world.syncing(self.objective, last):
                with torch.autocast(device, self.precision, enabled=mixed):
                    loss, nll = self.objective(batch)
                # DDP averages gradients over ranks; what is wanted is their sum.
                self.scaler.scale(loss * (self.world.size / update_tokens)).backward()
        except torch.OutOfMemoryError as error:
            source, target = tuple(batch.source_BS.shape), tuple(batch.target_in_BT.shape)
            raise UserError(
                f"out of memory on {self.world.device} with {source} source and {target} target "
                f"ids: lower train.batch_tokens and raise train.accumulate by the same factor"
            ) from error
        self.sums += torch.stack([loss.detach(), nll])

    def step(self, step: int) -> None:
        """Clip, step unless the gradient is not finite, follow with the average."""
        self.scaler.unscale_(self.optimizer)
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if self.clip:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.clip, norm)
        self.scaler.step(self.optimizer)
        self.scaler.update(None if self.scales_loss else 1.0)
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(step)
        bad = (~torch.isfinite(norm)).long()
        self.bad = torch.stack([(self.bad[0] + bad) * bad, self.bad[1] + bad])
        self.norm = norm

    def take_sums(self) -> tuple[float, float]:
        """(loss, nll) summed over ranks and over updates since the last call; waits for them."""
        loss, nll = self.world.all_sum(self.sums).tolist()
        self.sums = torch.zeros_like(self.sums)
        return loss, nll

    def check(self, counters: Counters, epoch: Epoch, update: Update, run: Path) -> None:
        """Read the counters of skipped updates.

        Raises:
            UserError: too many in a row; the pairs of the last one are in RUN/non_finite.json.
        """
        counters.skipped_in_a_row, counters.skipped = (int(n) for n in self.bad.tolist())
        if counters.skipped_in_a_row < MAX_BAD_UPDATES:
            return
        path = run / "non_finite.json"
        if self.world.first:
            pairs = [int(pair) for _, batch in update.micro_batches for pair in batch]
            rows = [
                {"pair": i, "source": epoch.source[i].tolist(), "target": epoch.target[i].tolist()}
                for i in pairs
            ]
            replace_file(path, json_bytes({"step": counters.step, "pairs": rows}))
        raise UserError(
            f"{counters.skipped_in_a_row} updates in a row had a loss or gradient that is not "
            f"finite, up to step {counters.step}: lower optim.learning_rate, raise optim.warmup, "
            f"or set train.precision=fp32; the last batch is in {path}"
        )

    def weights(self) -> dict[str, Tensor]:
        """What one decodes with: the moving average where there is one."""
        average = {} if self.average is None else self.average.tensors()
        return {**self.model.state_dict(), **average}

    def training_tensors(self) -> dict[str, Tensor]:
        """What a checkpoint needs besides ``weights`` to go on."""
        tensors = {
            f"optimizer/{name}": tensor
            for name, tensor in optimizer_tensors(self.model, self.optimizer).items()
        }
        if self.average is not None:
            tensors |= {f"raw/{name}": p.detach() for name, p in self.model.named_parameters()}
        return tensors

    def scaler_state(self) -> Mapping[str, float]:
        """The loss scale; empty where the loss is not scaled."""
        return self.scaler.state_dict() if self.scales_loss else {}

    def restore(self, saved: Saved, counters: Counters, *, origin: str) -> None:
        """Become what was saved.

        Raises:
            UserError: the checkpoint is of another model or optimiser.
        """
        parts: dict[str, dict[str, Tensor]] = {"optimizer": {}, "raw": {}}
        for key, tensor in saved.training.items():
            part, _, name = key.partition("/")
            parts.setdefault(part, {})[name] = tensor
        put_weights(self.model, saved.weights, origin=origin)
        if self.average is not None:
            self.average.restart()
            if parts["raw"].keys() != dict(self.model.named_parameters()).keys():
                raise UserError(f"{origin} lacks raw weights beside their moving average")
            put_weights(self.model, {**saved.weights, **parts["raw"]}, origin=origin)
        put_optimizer(self.model, self.optimizer, parts["optimizer"])
        if self.scales_loss and saved.state.get("scaler"):
            self.scaler.load_state_dict(saved.state["scaler"])
        self.bad = self.bad.new_tensor([counters.skipped_in_a_row, counters.skipped])
