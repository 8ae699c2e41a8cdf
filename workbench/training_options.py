"""`TrainingOptions`: how a model is trained, and nothing about what.

`batch_size` is what one update sees, whatever the memory: `accumulate` and further processes only split it. So the
same options mean the same training on a small machine and on a large one, up to rounding.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class TrainingOptions(BaseModel):
    """How a model is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    steps: int = Field(100, ge=1)
    """Number of parameter updates."""
    batch_size: int = Field(8, ge=1)
    """Items per update; the items are cycled, in a new order each time round."""
    lr: float = Field(1e-4, gt=0)
    """Learning rate of AdamW, or of Sophia."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """How the learning rate falls after the warm-up: not at all, or to 0 along a half cosine or a line."""
    warmup_steps: int = Field(0, ge=0)
    """Updates over which the learning rate rises from 0; fewer than `steps`."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay of AdamW, or of Sophia; on every parameter that moves."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of AdamW's running means of the gradient and of its square."""
    max_grad_norm: float = Field(1.0, ge=0)
    """Gradients of larger norm (over all trained parameters) are scaled down to it; 0 leaves them alone."""
    seed: int = 0
    """Seed of the order of items and of dropout."""
    optimizer: Literal["adamw", "muon", "sophia", "adamw8bit"] = "adamw"
    """`adamw`; `muon`: Muon for the two-dimensional matrices inside the blocks and AdamW for the rest; `sophia`:
    Sophia-G, the second-order optimizer of SOUL; `adamw8bit`: AdamW of bitsandbytes, which has to be installed."""
    muon_lr: float = Field(0.02, gt=0)
    """Learning rate of Muon."""
    muon_weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay of Muon."""
    muon_momentum: float = Field(0.95, ge=0, lt=1)
    """Momentum of Muon."""
    muon_follows_schedule: bool = False
    """Whether `schedule` also applies where Muon and AdamW train together. Without it both keep their learning rates
    throughout: so the demo models are trained, whose cached checkpoints would otherwise change."""
    sophia_betas: tuple[float, float] = (0.9, 0.95)
    """Decay rates of Sophia's running means of the gradient and of the curvature."""
    sophia_rho: float = Field(0.04, gt=0)
    """How much of the curvature a Sophia update is divided by; larger updates are cut to the learning rate."""
    sophia_every: int = Field(10, ge=1)
    """Updates between two estimates of the curvature, each of which costs a further pass (the paper's estimator)."""
    sophia_batch: int = Field(5120, ge=1)
    """The constant that the squared gradient is multiplied by under `sophia_published`."""
    sophia_published: bool = False
    """Sophia as SOUL's code has it: the squared gradient of every step as curvature, the momentum updated twice."""
    accumulate: int = Field(1, ge=1)
    """Passes that the items of an update are split over, to save memory; divides `batch_size`. The gradient is the
    mean over the parts: that of the whole where the loss is a mean over items, another where it is one over tokens."""
    precision: Literal["as_is", "bf16"] = "as_is"
    """`as_is`: computed in the parameters' own type; `bf16`: forward passes in bfloat16 where torch thinks it safe
    (autocast), parameters and optimizer as they are."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, a third more time."""

    processes: Literal["whole", "fsdp"] = "whole"
    """What several processes (torchrun) hold: each the `whole` model, or with `fsdp` a share of every parameter."""

    @model_validator(mode="after")
    def _warm_up_ends(self) -> "TrainingOptions":
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps ({self.warmup_steps}) must be fewer than steps ({self.steps})")
        if self.warmup_steps and self.optimizer == "muon" and not self.muon_follows_schedule:
            raise ValueError("warmup_steps with optimizer='muon' needs muon_follows_schedule=True")
        return self

    @model_validator(mode="after")
    def _parts_are_equal(self) -> "TrainingOptions":
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate ({self.accumulate}) must divide batch_size ({self.batch_size})")
        return self
