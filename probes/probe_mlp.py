"""A probe with one hidden layer: can a reader that bends find the answer where a linear one does not?

Source: the MLP probe of Hewitt & Liang 2019, https://arxiv.org/abs/1909.03368, with their advice: a small hidden layer
and weight decay, never dropout, and a control task beside it. Variant: one network a layer and relation (as the linear
probes), one hidden layer of ReLU, the linear probes' objective (summed cross-entropy + l2 / 2 * |W|^2), full-batch Adam
(Kingma & Ba 2015, https://arxiv.org/abs/1412.6980) for a fixed number of steps, every layer at once; float32.
Read it as: accuracy above the same network trained on shuffled answers.
Does not show: that the model holds the answer in a form it could use. A network this size can learn the task by itself,
from anything that sets the subjects apart: Hewitt & Liang find linear and MLP probes equally accurate, and the MLP's
accuracy far less selective. Where it reads more than a linear probe, the states tell the answer in some way, no more.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.probe_rows import Say

RATE = 0.01
"""Of Adam."""


def fit_mlp(
    states: Float[Tensor, "layer row d_model"],
    label: Int[Tensor, " row"],
    choices: Bool[Tensor, "row class"],
    l2: float,
    hidden: int,
    steps: int,
    generator: torch.Generator,
) -> Say:
    """One network for every layer and every set of choices (relation).

    A class that no row with a second choice could choose gets the logit 0.

    Args:
        states: what is read.
        label: the class of every row, one of its choices.
        choices: what each row's reader chooses from; two sets are equal or have nothing in common.
        l2: weight of |W|^2 / 2 beside the summed cross-entropy; biases are free.
        hidden: width of the hidden layer.
        steps: of Adam.
        generator: of the weights each network begins with (on the CPU, so that every device begins alike).
    """
    sets, group = choices.unique(dim=0, return_inverse=True)
    parts = []
    for i, one in enumerate(sets):
        classes, own = one.nonzero()[:, 0], group == i
        if len(classes) > 1:
            begin = _beginning(states.shape[0], (states.shape[2], hidden, len(classes)), generator)
            told = torch.searchsorted(classes, label[own])
            parts.append((classes, _trained(states[:, own], told, l2, steps, begin)))

    def say(read: Float[Tensor, "layer row d_model"]) -> Float[Tensor, "layer row class"]:
        logits = read.new_zeros(*read.shape[:2], choices.shape[1])
        for classes, network in parts:
            logits[..., classes.to(read.device)] = _forward(network, read)
        return logits

    return say


def _forward(network: list[Tensor], read: Float[Tensor, "layer row d_model"]) -> Float[Tensor, "layer row class"]:
    first, first_bias, second, second_bias = network
    return torch.baddbmm(second_bias, torch.baddbmm(first_bias, read, first).relu(), second)


def _beginning(layers: int, widths: tuple[int, int, int], generator: torch.Generator) -> list[Tensor]:
    """Weights and biases of both layers of the network, drawn after He et al. 2015 (https://arxiv.org/abs/1502.01852)."""
    width, hidden, classes = widths
    return [
        torch.randn(layers, width, hidden, generator=generator) * (2 / width) ** 0.5,
        torch.zeros(layers, 1, hidden),
        torch.randn(layers, hidden, classes, generator=generator) * (1 / hidden) ** 0.5,
        torch.zeros(layers, 1, classes),
    ]


def _trained(
    states: Float[Tensor, "layer row d_model"], label: Int[Tensor, " row"], l2: float, steps: int, begin: list[Tensor]
) -> list[Tensor]:
    """The network after training, for every layer of the model."""
    layers, rows, _ = states.shape
    network = [tensor.to(states).requires_grad_() for tensor in begin]
    told = label.to(states.device).expand(layers, rows).reshape(-1)
    optimiser = torch.optim.Adam(network, lr=RATE)
    with torch.enable_grad():
        for _ in range(steps):
            logits = _forward(network, states).reshape(layers * rows, -1)
            misses = torch.nn.functional.cross_entropy(logits, told, reduction="sum")
            decay = l2 / 2 * (network[0].square().sum() + network[2].square().sum())
            optimiser.zero_grad()
            ((misses + decay) / rows).backward()
            optimiser.step()
    return [tensor.detach() for tensor in network]
