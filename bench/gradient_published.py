"""OpenUnlearning's training step, stated again as a `transformers.Trainer`, for a comparison of speed and memory.

Source: OpenUnlearning (Dorna et al. 2025, https://arxiv.org/abs/2506.12618), the trainers of its unlearning methods,
from their formulas: a pass over the forget batch and another over the retain batch, each with all its logits and with
the model's own loss beside the method's; a copy of the start model on the same device, run at every step by the methods
that compare with it (NPO, DPO, UNDIAL, RMU, a KL retain loss); for RMU both models run to the last layer and every
parameter gets its gradient though only the chosen ones are moved. Weights of the two terms are those of our methods'
defaults. AdamW is the trainer's default, as its 32-bit paged one needs a GPU and another package.
Does not show: what its evaluation, its logging and its data loading cost.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset, SequentialSampler
from transformers import PreTrainedModel, Trainer, TrainingArguments

from interventions.gradient.pairs import Pair
from workbench.objectives import labelled
from workbench.tokens import Encoded

Inputs = dict[str, Tensor]
"""Ids, mask and labels of one part of a batch."""

REFERENCED = ("npo", "dpo", "undial", "kl", "rmu")
"""Methods that hold a copy of the start model."""

IGNORED = -100


def collate(pairs: list[Pair]) -> dict[str, Inputs]:
    """A batch of parts, padded on the right; the model numbers positions itself."""
    parts = {
        "forget": [p.forget.encoded for p in pairs],
        "retain": [p.retain.encoded for p in pairs if p.retain],
        "other": [p.other.encoded for p in pairs if p.other],
    }
    return {name: _inputs(given) for name, given in parts.items() if given}


def _inputs(given: Sequence[Encoded]) -> Inputs:
    found = labelled(given)
    return {name: found[name] for name in ("input_ids", "attention_mask", "labels")}


def arguments(folder: str, *, steps: int, batch: int, lr: float, bf16: bool, cpu: bool) -> TrainingArguments:
    """The trainer's own settings, with nothing written or reported, and a constant rate: weights can be compared."""
    return TrainingArguments(
        output_dir=folder,
        max_steps=steps,
        per_device_train_batch_size=batch,
        learning_rate=lr,
        lr_scheduler_type="constant",
        bf16=bf16,
        use_cpu=cpu,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
    )


class PublishedStep(Trainer):
    """The published step of one method.

    Args:
        method: its name; one of `STEPS`.
        layer: for RMU, whose output is steered.
        target: for RMU, where the forget tokens are to go.
        trained: for RMU, parameters that the optimizer is given.
    """

    def __init__(
        self,
        *given: Any,
        method: str,
        layer: int = 0,
        target: Float[Tensor, " width"] | None = None,
        trained: Sequence[str] = (),
        **more: Any,
    ) -> None:
        super().__init__(*given, data_collator=collate, **more)
        self.method, self.layer, self.target, self.trained = method, layer, target, set(trained)
        self.dual = 1.0
        self.losses: list[Tensor] = []
        self.reference: PreTrainedModel | None = None
        if method in REFERENCED:
            reference = copy.deepcopy(self.model).to(self.accelerator.device).eval()
            self.reference = self.accelerator.prepare_model(reference, evaluation_mode=True)

    def _get_train_sampler(self, train_dataset: Dataset[Any] | None = None) -> SequentialSampler:
        return SequentialSampler(cast(Any, train_dataset or self.train_dataset))

    def create_optimizer(self, *given: Any, **more: Any) -> Any:
        """RMU's optimizer holds the chosen parameters; all get gradients again afterwards."""
        for name, parameter in self.model.named_parameters() if self.trained else ():
            parameter.requires_grad_(name in self.trained)
        optimizer = super().create_optimizer(*given, **more)
        self.model.requires_grad_(True)
        return optimizer

    def compute_loss(self, model: nn.Module, inputs: dict[str, Inputs], *_: Any, **__: Any) -> Float[Tensor, ""]:
        """The method's loss."""
        loss = STEPS[self.method](self, model, inputs)
        self.losses.append(loss.detach())
        return loss


def row_losses(model: nn.Module, inputs: Inputs) -> tuple[Float[Tensor, " row"], Any]:
    """Summed token loss of each row, and the model's output."""
    out = model(**inputs)
    logits, labels = out.logits[..., :-1, :].contiguous(), inputs["labels"][..., 1:].contiguous()
    each = functional.cross_entropy(logits.transpose(-1, -2), labels, ignore_index=IGNORED, reduction="none")
    return each.sum(dim=-1), out


def token_losses(model: nn.Module, inputs: Inputs) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"], Any]:
    """Loss at every position, 0 where nothing is labelled; which are; and the model's output."""
    out = model(**inputs)
    logits, labels = out.logits[..., :-1, :].contiguous(), inputs["labels"][..., 1:].contiguous().view(-1)
    each = functional.cross_entropy(logits.view(-1, logits.shape[-1]), labels, ignore_index=IGNORED, reduction="none")
    return each, labels != IGNORED, out


def preference(
    step: PublishedStep, model: nn.Module, chosen: Inputs | None, rejected: Inputs, beta: float
) -> tuple[Float[Tensor, ""], list[Any]]:
    """DPO's loss times 2/beta, NPO's where nothing is chosen; and the outputs, which are held to the end."""
    assert step.reference is not None
    margin, held = torch.zeros((), device=rejected["labels"].device), list[Any]()
    for sign, inputs in ((-1.0, chosen), (1.0, rejected)):
        if inputs is not None:
            now, out = row_losses(model, inputs)
            held.append(out)
            with torch.no_grad():
                before, _ = row_losses(step.reference, inputs)
            margin = margin + sign * (now - before)
    return -2 / beta * functional.logsigmoid(beta * margin).mean(), held


def npo(step: PublishedStep, model: nn.Module, inputs: dict[str, Inputs]) -> Float[Tensor, ""]:
    """NPO and the loss on the retain batch."""
    forget, _held = preference(step, model, None, inputs["forget"], 0.1)
    return forget + model(**inputs["retain"]).loss


def dpo(step: PublishedStep, model: nn.Module, inputs: dict[str, Inputs]) -> Float[Tensor, ""]:
    """DPO towards other answers and the loss on the retain batch."""
    forget, _held = preference(step, model, inputs["other"], inputs["forget"], 0.1)
    return forget + model(**inputs["retain"]).loss


def undial(step: PublishedStep, model: nn.Module, inputs: dict[str, Inputs]) -> Float[Tensor, ""]:
    """Over all positions; the label -100 counts from the end of the vocabulary, as published."""
    assert step.reference is not None
    out = model(**inputs["forget"])
    logits, labels = out.logits[..., :-1, :].contiguous(), inputs["forget"]["labels"][..., 1:].contiguous()
    with torch.no_grad():
        teacher = step.reference(**inputs["forget"]).logits[..., :-1, :].contiguous()
    chosen = torch.zeros_like(teacher)
    chosen.scatter_(-1, labels.remainder(logits.shape[-1])[..., None], 1.0)
    target = (teacher - chosen * 10.0).softmax(dim=-1)
    width = logits.shape[-1]
    loss = functional.cross_entropy(logits.view(-1, width), target.view(-1, width), reduction="none").mean()
    return loss + model(**inputs["retain"]).loss


def grad_ascent(_: PublishedStep, model: nn.Module, inputs: dict[str, Inputs]) -> Float[Tensor, ""]:
    """Minus the model's own loss."""
    return -model(**inputs["forget"]).loss


def grad_diff(_: PublishedStep, model: nn.Module, inputs: dict[str, Inputs]) -> Float[Tensor, ""]:
    """Ascent and the loss on the retain batch."""
    forget = model(**inputs["forget"])
    return -forget.loss + model(**inputs["retain"]).loss


def kl(step: PublishedStep, model: nn.Module, inputs: dict[str, Inputs]) -> Float[Tensor, ""]:
    """Ascent and KL(start || now) over all positions of the retain batch, which passes once for nothing first."""
    assert step.reference is not None
    forget = model(**inputs["forget"])
    unused = model(**inputs["retain"])
    with torch.no_grad():
        before = step.reference(**inputs["retain"]).logits
    before = before.log_softmax(dim=-1).view(-1, before.shape[-1])
    now = model(**inputs["retain"]).logits.log_softmax(dim=-1).view(-1, before.shape[-1])
    del unused
    return -forget.loss + functional.kl_div(now, before, reduction="batchmean", log_target=True)


def simnpo(_: PublishedStep, model: nn.Module, inputs: dict[str, Inputs]) -> Float[Tensor, ""]:
    """SimNPO and the loss on the retain batch."""
    total, _out = row_losses(model, inputs["forget"])
    mean = total / (inputs["forget"]["labels"] != IGNORED).sum(dim=-1)
    return 0.125 * (-functional.logsigmoid(4.5 * mean).mean() * 2 / 4.5) + model(**inputs["retain"]).loss


def wga(_: PublishedStep, model: nn.Module, inputs: dict[str, Inputs]) -> Float[Tensor, ""]:
    """Ascent weighted by probability and the loss on the retain batch."""
    each, counted, _out = token_losses(model, inputs["forget"])
    weight = (-each).exp().detach()
    return -(weight * each)[counted].mean() + model(**inputs["retain"]).loss


def satimp(_: PublishedStep, model: nn.Module, inputs: dict[str, Inputs]) -> Float[Tensor, ""]:
    """Ascent weighted twice and the loss on the retain batch."""
    each, counted, _out = token_losses(model, inputs["forget"])
    probability = (-each).exp().detach()
    weight = probability**5 * (1 - probability)
    return 0.1 * -(weight * each)[counted].mean() + model(**inputs["retain"]).loss


def ce_u(_: PublishedStep, model: nn.Module, inputs: dict[str, Inputs]) -> Float[Tensor, ""]:
    """The model's own distribution without the true token, after the first answer token."""
    labels = inputs["forget"]["labels"]
    answer = labels != IGNORED
    labels = labels.masked_fill((answer.cumsum(dim=-1) <= 1) & answer, IGNORED)[..., 1:].contiguous()
    logits = model(**inputs["forget"]).logits[..., :-1, :].contiguous()
    counted = labels != IGNORED
    said = logits[counted]
    target = said.detach().clone().scatter_(-1, labels[counted][:, None], -torch.inf).softmax(dim=-1)
    return functional.cross_entropy(said, target)


def pdu(step: PublishedStep, model: nn.Module, inputs: dict[str, Inputs]) -> Float[Tensor, ""]:
    """Flat logits at the labels' own positions, and the retain loss above its bound times a dual variable."""
    out = model(**inputs["forget"])
    logits = out.logits[inputs["forget"]["labels"] != IGNORED]
    forget = (logits.max(dim=-1)[0] - logits.mean(dim=-1)).square().mean()
    over = model(**inputs["retain"]).loss - 0.5
    loss = forget + step.dual * over
    step.dual = max(0.0, step.dual + over.item())
    return loss


def rmu(step: PublishedStep, model: nn.Module, inputs: dict[str, Inputs]) -> Float[Tensor, ""]:
    """Forget states to the target, retain states to where the copy has them."""
    assert step.reference is not None and step.target is not None
    forget = _states(model, inputs["forget"], step.layer)
    steered = _distance(forget, step.target.to(forget)[None, None].expand_as(forget), inputs["forget"])
    retain = _states(model, inputs["retain"], step.layer)
    with torch.no_grad():
        before = _states(step.reference, inputs["retain"], step.layer)
    return steered + 100 * _distance(retain, before, inputs["retain"])


def _states(model: Any, inputs: Inputs, layer: int) -> Float[Tensor, "row pos width"]:
    """What leaves a block, from a pass to the last layer."""
    kept: list[Tensor] = []
    handle = model.model.layers[layer].register_forward_hook(lambda _, __, out: kept.append(out))
    model(**inputs)
    handle.remove()
    return kept[0][0] if isinstance(kept[0], tuple) else kept[0]


def _distance(
    state: Float[Tensor, "row pos width"], target: Float[Tensor, "row pos width"], inputs: Inputs
) -> Float[Tensor, ""]:
    """As published: its shapes make it the mean over all pairs of one row's sum and another's count."""
    mask = inputs["labels"] != IGNORED
    squared = functional.mse_loss(state, target, reduction="none") * mask[..., None].expand_as(state)
    return (squared.mean(dim=2).sum(dim=1) / mask.sum(dim=-1, keepdim=True)).mean()


STEPS: dict[str, Callable[[PublishedStep, nn.Module, dict[str, Inputs]], Float[Tensor, ""]]] = {
    "npo": npo,
    "dpo": dpo,
    "undial": undial,
    "grad_ascent": grad_ascent,
    "grad_diff": grad_diff,
    "kl": kl,
    "simnpo": simnpo,
    "wga": wga,
    "satimp": satimp,
    "ce_u": ce_u,
    "pdu": pdu,
    "rmu": rmu,
}
"""Method -> its published loss."""
