"""What makes a training fit: forward passes in bfloat16, and activations computed twice instead of kept.

Both are set here and not by the trainer, which would leave the model with a wrapped `forward` and with hooks on its
embeddings. Expect: gradient checkpointing gives the same numbers; bfloat16 gives others, by about 1 part in 256.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from workbench.errors import BadInput
from workbench.training_options import TrainingOptions

_FLAG, _FUNCTION = "gradient_checkpointing", "_gradient_checkpointing_func"


def passes_in(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """What every pass is computed inside."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def require_memory_options(model: PreTrainedModel, options: TrainingOptions) -> None:
    """Refuse what the hardware or the model cannot do.

    Raises:
        BadInput: saying which and what to do.
    """
    kind = model.device.type
    if options.precision == "bf16" and not _computes_bf16(kind):
        raise BadInput(f"precision='bf16': this {kind} device does not compute in bfloat16. Use precision='as_is'")
    if options.gradient_checkpointing and not model.supports_gradient_checkpointing:
        raise BadInput(
            f"{type(model).__name__} does not support gradient checkpointing. Use gradient_checkpointing=False, and "
            "`accumulate` to save memory"
        )


def _computes_bf16(kind: str) -> bool:
    """Any CPU does, if slowly; a GPU only in hardware."""
    return torch.cuda.is_bf16_supported(including_emulation=False) if kind == "cuda" else kind == "cpu"


@contextmanager
def checkpointed(model: PreTrainedModel, wanted: bool) -> Iterator[None]:
    """Recompute activations while the block runs; every flag is put back."""
    modules = [module for module in model.modules() if hasattr(module, _FLAG)] if wanted else []
    before = [{key: vars(module)[key] for key in (_FLAG, _FUNCTION) if key in vars(module)} for module in modules]
    try:
        for module in modules:
            vars(module).update({_FLAG: True, _FUNCTION: partial(checkpoint, use_reentrant=False)})
        yield
    finally:
        for module, kept in zip(modules, before, strict=True):
            for key in (_FLAG, _FUNCTION):
                vars(module).pop(key, None)
            vars(module).update(kept)
