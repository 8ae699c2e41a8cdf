"""A guarded model as transformers serves any other: `generate`, sampling options, streaming and batches all work.

Read it as: `model, tokenizer = load_guarded("runs/x/guarded")`, then `model.generate(**tokenizer(prompt,
return_tensors="pt"))`. The prompt is what `generate` is given; the guard judges it, and every token that is said after
it. Each new token costs a pass over the whole row (and two with a trigger): guards look at whole rows, so keys and
values are not kept.
Does not show: any removal. The object holds the base's weights unchanged.
"""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import GenerationMixin, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import CausalLMOutputWithPast

from workbench.checkpoint import Checkpoint
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.tokens import Batch


class GuardedLM(PreTrainedModel, GenerationMixin):
    """A hooked model, with whatever it wears, behind transformers' interface.

    Args:
        model: an open model.
    """

    def __init__(self, model: HookedModel) -> None:
        super().__init__(model.hf.config)
        self.hooked = model
        self.generation_config = model.hf.generation_config
        self._prompt: Tensor | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.hooked.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.hooked.hf.dtype

    def generate(self, inputs: Tensor | None = None, **more: Any) -> Any:
        """As transformers' own; the guard takes what is given here as the prompt.

        Raises:
            BadInput: when it is not given as token ids.
        """
        ids = more.pop("input_ids", inputs)
        if not isinstance(ids, Tensor):
            raise BadInput("A guarded model generates from token ids: give input_ids, and attention_mask for a batch")
        mask = more.get("attention_mask")
        self._prompt = (torch.ones_like(ids) if mask is None else mask).sum(dim=1).cpu()
        try:
            return super().generate(ids, **{**more, "use_cache": False})
        finally:
            self._prompt = None

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any
    ) -> dict[str, Any]:
        """Whole rows, every time."""
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    @torch.no_grad()
    def forward(self, input_ids: Int[Tensor, "row pos"], attention_mask: Tensor | None = None, **_: Any) -> Any:
        """Next-token logits of every position, padding on either side."""
        mask = torch.ones_like(input_ids).bool() if attention_mask is None else attention_mask.bool()
        order = (~mask).long().argsort(dim=1, stable=True)  # tokens first, padding last, as the workbench reads rows
        prompt = self._prompt
        if prompt is not None and len(prompt) != len(input_ids):  # several beams or samples a prompt
            prompt = prompt.repeat_interleave(len(input_ids) // len(prompt))
        batch = Batch(input_ids.gather(1, order).cpu(), mask.gather(1, order).cpu(), prompt)
        logits = self.hooked.run(batch).logits
        assert logits is not None
        back = order.argsort(dim=1).to(logits.device)[..., None].expand_as(logits)
        return CausalLMOutputWithPast(logits=logits.gather(1, back))


def load_guarded(folder: Path | str) -> tuple[GuardedLM, PreTrainedTokenizerBase]:
    """Open a guard's folder (or any checkpoint) for serving.

    Raises:
        BadInput: when it cannot be opened.
    """
    model = Checkpoint(folder).open()
    return GuardedLM(model).eval(), model.tokenizer
