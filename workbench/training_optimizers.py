"""The optimizers by name, and their state as plain data.

Read it as: `optimizer_of(model, options, leaves)` holds what may move and nothing else; `state_of` and `restore` carry
its running means through a file.
"""

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedModel, get_scheduler

from workbench.errors import BadInput
from workbench.training_leaves import Leaves
from workbench.training_options import TrainingOptions
from workbench.training_sophia import Sophia

_SCHEDULES = {"constant": "constant_with_warmup", "cosine": "cosine", "linear": "linear"}


class MuonAndAdamW(torch.optim.Optimizer):
    """Two optimizers that look like one to the scheduler and the trainer; they share its list of groups."""

    def __init__(self, muon: torch.optim.Muon, adamw: torch.optim.AdamW, follows_schedule: bool) -> None:
        super().__init__([*muon.param_groups, *adamw.param_groups], {})
        self.parts, self.follows_schedule = (muon, adamw), follows_schedule
        self._share()

    def _share(self) -> None:
        """Let the scheduler's groups be those of the two."""
        muon, adamw = self.parts
        cut = len(muon.param_groups)
        muon.param_groups, adamw.param_groups = self.param_groups[:cut], self.param_groups[cut:]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Replaces the groups (the trainer does this to every optimizer before it starts).

        The two parts go on with the old ones, out of the scheduler's reach, unless they are shared anew.
        """
        super().load_state_dict(state_dict)
        if self.follows_schedule:
            self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update both; a closure is not supported because the trainer never gives one."""
        assert closure is None
        for part in self.parts:
            part.step()


def optimizer_of(model: PreTrainedModel, options: TrainingOptions, leaves: Leaves) -> torch.optim.Optimizer:
    """The optimizer over all parameters, and parts of parameters, that may move.

    Raises:
        BadInput: for Muon on masked entries.
    """
    moving = list(leaves.held.values())
    if options.optimizer == "sophia":
        optimizer: torch.optim.Optimizer = Sophia(
            moving,
            lr=options.lr,
            betas=options.sophia_betas,
            rho=options.sophia_rho,
            weight_decay=options.weight_decay,
            batch=options.sophia_batch,
            published=options.sophia_published,
        )
    elif options.optimizer == "muon":
        optimizer = _muon(model, options, leaves)
    else:
        optimizer = _adamw(moving, options)
    leaves.watch(optimizer)
    return optimizer


def scheduler_of(optimizer: torch.optim.Optimizer, options: TrainingOptions) -> LRScheduler:
    """What moves the learning rate."""
    return get_scheduler(_SCHEDULES[options.schedule], optimizer, options.warmup_steps, options.steps)


def _adamw(moving: list[nn.Parameter], options: TrainingOptions) -> torch.optim.Optimizer:
    kind: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW
    if options.optimizer == "adamw8bit":
        kind = importlib.import_module("bitsandbytes").optim.AdamW8bit
    return kind(moving, lr=options.lr, betas=options.betas, weight_decay=options.weight_decay)


def require_optimizer(model: PreTrainedModel, options: TrainingOptions) -> None:
    """Refuse an optimizer that is not installed, or that does not work on the model's device.

    Raises:
        BadInput: saying what to install.
    """
    if options.optimizer == "adamw8bit":
        _try_eight_bit(model.device)


def _try_eight_bit(device: torch.device) -> None:
    """One step of the AdamW of bitsandbytes."""
    instead = "or use optimizer='adamw'"
    tried = nn.Parameter(torch.ones(8192, device=device))  # fewer entries would keep 32 bits
    tried.grad = torch.ones_like(tried)
    try:
        importlib.import_module("bitsandbytes").optim.AdamW8bit([tried], lr=0.1).step()
    except ImportError:
        raise BadInput(
            "optimizer='adamw8bit' needs the package bitsandbytes, which is not installed: install it "
            f"(pip install bitsandbytes, or the workbench with [eight-bit]), {instead}"
        ) from None
    except (RuntimeError, OSError, AttributeError, NotImplementedError, TypeError) as error:
        said = (str(error).splitlines() or [""])[0][:150]
        raise BadInput(
            f"optimizer='adamw8bit': the bitsandbytes that is installed does not work on {device.type} "
            f"({type(error).__name__}: {said}). Install a newer one (pip install -U bitsandbytes), {instead}"
        ) from None
    if bool((tried == 1).all()):
        raise BadInput(
            f"optimizer='adamw8bit': bitsandbytes moves nothing on {device.type}: install another, {instead}"
        )


def _muon(model: PreTrainedModel, options: TrainingOptions, leaves: Leaves) -> torch.optim.Optimizer:
    """Muon for the matrices inside the blocks, AdamW for the rest."""
    if leaves.masked_names:
        raise BadInput(
            f"Muon turns whole matrices, so it cannot train the masked entries of {leaves.masked_names[0]} alone: "
            "use another optimizer"
        )
    inside = {id(p) for m in model.modules() if isinstance(m, nn.ModuleList) for p in m.parameters() if p.ndim == 2}
    matrices = [p for p in leaves.held.values() if id(p) in inside]
    rest = [p for p in leaves.held.values() if id(p) not in inside]
    if not matrices:
        return _adamw(rest, options)
    muon = torch.optim.Muon(
        matrices, lr=options.muon_lr, weight_decay=options.muon_weight_decay, momentum=options.muon_momentum
    )
    if not rest:
        return muon
    adamw = torch.optim.AdamW(rest, lr=options.lr, betas=options.betas, weight_decay=options.weight_decay)
    return MuonAndAdamW(muon, adamw, options.muon_follows_schedule)


def state_of(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Running means and settings, one entry for each optimizer inside."""
    parts = optimizer.parts if isinstance(optimizer, MuonAndAdamW) else (optimizer,)
    return [part.state_dict() for part in parts]


def restore(optimizer: torch.optim.Optimizer, states: list[dict[str, Any]]) -> None:
    """Go on from such a state."""
    if isinstance(optimizer, MuonAndAdamW):
        for part, state in zip(optimizer.parts, states, strict=True):
            part.load_state_dict(state)
        if optimizer.follows_schedule:
            optimizer.param_groups = [group for part in optimizer.parts for group in part.param_groups]
    else:
        optimizer.load_state_dict(states[0])
