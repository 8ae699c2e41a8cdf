"""Tokens and experts, cut out of a `token_routing` trace: one fact at one layer, and the tokens that one expert gets.

Source: Muennighoff et al. 2024 (OLMoE), https://arxiv.org/abs/2409.02060, who ask which words of the vocabulary an
expert is chosen for. Variant: over the few facts that were read, by token as spelt, with the router's mean probability.
Read it as: an expert that gets the same tokens before and after is used as it was; one that lost the tokens of the
subjects was routed round.
Does not show: tokens of facts that were not read, nor what the expert does with them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from workbench.errors import BadInput
from workbench.figures_tokens import visible
from workbench.trace import Trace
from workbench.trace_cuts import layer_name


@dataclass(frozen=True)
class RoutingGrid:
    """Where one model sends the tokens of one text at one layer."""

    tokens: tuple[str, ...]
    """As spelt, blanks and controls made visible."""
    experts: tuple[str, ...]
    """Numbers of the experts of this layer."""
    probability: np.ndarray
    """(token, expert) of the router; NaN for a router whose function is not known."""
    weight: np.ndarray
    """(token, expert): what a chosen expert's output is multiplied by; NaN where the token is not sent."""
    answer_start: int
    """The first token of the answer."""

    @property
    def chosen(self) -> np.ndarray:
        """(token, expert): whether the token is sent there."""
        return np.isfinite(self.weight)


def routing_grid(trace: Trace, fact: str, layer: str) -> RoutingGrid:
    """One fact at one layer of a `token_routing` trace.

    Args:
        trace: the reading.
        fact: label of the fact.
        layer: name of the layer: `3`.

    Raises:
        BadInput: when the trace was not read there, or its notes do not fit its numbers.
    """
    cut = trace.pick("fact", fact).pick("layer", _label(trace, layer))
    at = trace.labels["fact"].index(fact)
    try:
        tokens = tuple(visible(str(token), 24) for token in trace.notes["tokens"][at])
        start = int(trace.notes["prompt_tokens"][at])
        probability, weight = (cut.pick("measure", m).values.astype(float) for m in ("probability", "weight"))
        read = np.isfinite(weight).any(axis=1)
        if np.flatnonzero(read).tolist() != list(range(len(tokens))):
            raise ValueError("another number of tokens")
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(f"The notes of {trace.name!r} do not fit its numbers ({error}); read it again") from None
    there = np.flatnonzero(_exist(trace, layer))
    experts = tuple(trace.labels["expert"][i] for i in there)
    return RoutingGrid(tokens, experts, probability[: len(tokens), there], weight[: len(tokens), there], start)


def layers_read(trace: Trace) -> tuple[str, ...]:
    """The mixture layers of a `token_routing` trace: `0`, `1`, ..."""
    return tuple(map(layer_name, trace.labels["layer"]))


def moved(before: RoutingGrid, after: RoutingGrid) -> int | None:
    """Choices of the first that the second does not make; None when they were not read on the same tokens."""
    if (before.tokens, before.experts) != (after.tokens, after.experts):
        return None
    return int((before.chosen & ~after.chosen).sum())


def tokens_of(by_role: Mapping[str, Trace], layer: str, expert: str) -> pd.DataFrame:
    """The tokens that an expert gets in any of the models, over all facts that were read, those it gets most first.

    Columns: `token`, how often it was `seen`, and for each role how often it was sent to the expert (`base: sent`) and
    the router's mean probability of the expert over all that were seen (`base: probability`).

    Raises:
        BadInput: when a trace was not read at that layer or expert, or its notes do not fit its numbers.
    """
    parts = {role: _counted(trace, layer, expert) for role, trace in by_role.items()}
    if not parts:
        return pd.DataFrame(columns=["token", "seen"])
    seen = next(iter(parts.values()))["seen"]
    table = pd.DataFrame({"seen": seen})
    for column in ("sent", "probability"):
        for role, part in parts.items():
            table[f"{role}: {column}"] = part[column]
    sent = table[[f"{role}: sent" for role in parts]]
    order = pd.DataFrame({"most": -sent.max(axis=1), "all": -sent.sum(axis=1)})
    table = table.loc[order[order["most"] < 0].sort_values(["most", "all"], kind="stable").index]
    return table.rename_axis("token").reset_index()


def _counted(trace: Trace, layer: str, expert: str) -> pd.DataFrame:
    """A row a token as spelt: how often seen, how often sent, mean probability."""
    rows = []
    for fact in trace.labels["fact"]:
        grid = routing_grid(trace, fact, layer)
        if expert not in grid.experts:
            raise BadInput(f"Layer {layer} has no expert {expert}; it has {len(grid.experts)}")
        at = grid.experts.index(expert)
        rows += list(zip(grid.tokens, grid.chosen[:, at], grid.probability[:, at], strict=True))
    found = pd.DataFrame(rows, columns=["token", "sent", "probability"])
    found["sent"] = found["sent"].astype(int)
    groups = found.groupby("token", sort=False)
    return groups.agg(seen=("sent", "size"), sent=("sent", "sum"), probability=("probability", "mean"))


def _label(trace: Trace, layer: str) -> str:
    for label in trace.labels["layer"]:
        if layer_name(label) == layer:
            return label
    raise BadInput(f"Layer {layer} is no mixture of experts; these are: {', '.join(layers_read(trace))}")


def _exist(trace: Trace, layer: str) -> np.ndarray:
    """Which experts this layer has, as it may have fewer than others: those with any probability or weight."""
    cut = np.isfinite(trace.pick("layer", _label(trace, layer)).values.astype(float))
    known = cut.any(axis=tuple(i for i in range(cut.ndim - 1)))
    probability = np.isfinite(trace.pick("measure", "probability").values.astype(float)).any()
    return known if probability else np.ones(len(known), dtype=bool)
