"""Knowledge-encoding layers: for how many facts a layer carries the knowledge, and how much of that is erased there.

Source: the knowledge-encoding layers of Lee et al. 2026 (`workbench.knowledge_layers`), counted a layer over all facts.
Read it as: a bar is the share of facts that the layer carries, the same for every model; its hatched part is what this
model has erased there, its solid part what the base can still read from its states. All hatched is like the reference.
Does not show: how large a fact's drop is (the depth score weighs layers by it, this counts facts), nor knowledge in a
form that the base does not read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.errors import BadInput
from workbench.figures_style import INK, Look, describes, finish, look_of, number, plain
from workbench.knowledge_layers import carries, erased
from workbench.trace import Trace

ERASED, LEFT = "erased", "still readable"
"""The two parts of a bar."""


@dataclass(frozen=True)
class Encoded:
    """What one model has erased at the layers that carry the facts."""

    layers: tuple[str, ...]
    """Upwards."""
    facts: int
    """Facts that were read."""
    carried: np.ndarray
    """(layer): facts that the layer carries."""
    gone: np.ndarray
    """(layer): mean share erased of these; NaN where the layer carries none."""


def encoded(trace: Trace, reference: Trace | None) -> Encoded:
    """Count the facts every layer carries, from a `depth_score` trace of drops and the reference's.

    Args:
        trace: the audited model's, axes (layer, fact).
        reference: the reference's; None to take the first stage that the trace keeps in its notes.

    Raises:
        BadInput: when there is no first stage, it is of other facts or layers, or the trace holds no drops.
    """
    notes = trace.notes
    options = notes.get("options", {})
    if trace.axes != ("layer", "fact") or options.get("value", "drop") != "drop":
        raise BadInput(f"Trace {trace.name!r} holds no drops by layer and fact; read it with value='drop'")
    if reference is not None and any(
        one != other
        for one, other in (
            (reference.labels, trace.labels),
            *((reference.notes.get(name), notes.get(name)) for name in ("identity", "facts_digest")),
        )
    ):
        raise BadInput("The reference was read on other facts or layers, or by another base")
    try:
        first = reference.values if reference is not None else np.array(notes["first_drop"], dtype=float)
        tokens, threshold = np.array(notes["answer_tokens"], dtype=float), float(options["threshold"])
        if first.shape != trace.values.shape or tokens.shape != first.shape[1:]:
            raise ValueError("another number of facts")
    except (LookupError, TypeError, ValueError) as error:
        raise BadInput(f"The notes of {trace.name!r} do not fit its numbers ({error}); read it again") from None
    if not np.isfinite(first).any():
        raise BadInput("It is told against a model retrained without the concept, and none was read")
    there = carries(first.astype(float), tokens, threshold) & np.isfinite(trace.values)
    share = np.where(there, erased(first.astype(float), trace.values.astype(float), there), 0.0)
    count = there.sum(axis=1)
    gone = np.divide(share.sum(axis=1), count, out=np.full(len(count), np.nan), where=count > 0)
    return Encoded(trace.labels["layer"], first.shape[1], count, gone)


def encoding_bars(by_role: Mapping[str, Encoded], title: str, chosen: str = "") -> go.Figure:
    """A bar a layer: the share of facts it carries, in what is erased and what is left; a panel a model.

    Args:
        by_role: role -> counts.
        title: of the picture.
        chosen: the layer to stand out.

    Raises:
        BadInput: when there is no role.
    """
    if not by_role:
        raise BadInput("There is no model to draw: give at least one role")
    names = [plain(role, 60) for role in by_role]
    figure = make_subplots(len(names), 1, subplot_titles=names, shared_xaxes=True, vertical_spacing=0.24 / len(names))
    for i, (role, found) in enumerate(by_role.items()):
        share = found.carried / max(1, found.facts)
        gone = np.where(found.carried > 0, share * np.nan_to_num(found.gone), 0.0)
        for part, height in ((ERASED, gone), (LEFT, share - gone)):
            _bars(figure, (role, part), found, height, (look_of(role, i), chosen, i + 1))
    figure.update_xaxes(type="category", showgrid=False)
    figure.update_xaxes(title_text="layer", row=len(names), col=1)
    figure.update_yaxes(title_text="share of facts", range=[0, 1.04])
    said = "; ".join(f"{role}: {_told(found)}" for role, found in by_role.items())
    alt = f"{title}: facts that each layer carries, and how much of them is erased there. {said}."
    finish(figure, title, alt, 90 + 230 * len(names))
    figure.update_layout(barmode="stack", bargap=0.25, margin={"t": 78})
    return figure.update_annotations(font={"size": 12})


def _bars(
    figure: go.Figure, series: tuple[str, str], found: Encoded, height: np.ndarray, look: tuple[Look, str, int]
) -> None:
    (role, part), (style, chosen, row) = series, look
    solid = part == LEFT
    fill: dict[str, Any] = {"color": style.color if solid else "#ffffff"}
    if not solid:
        fill["pattern"] = {"shape": "/", "fgcolor": style.color, "bgcolor": "#ffffff", "size": 7, "solidity": 0.25}
    edge = {"color": [INK if layer == chosen else style.color for layer in found.layers]}
    columns = ["facts carried", "share erased"]
    figure.add_bar(
        x=list(found.layers),
        y=height,
        ids=list(found.layers),
        name=part,
        legendgroup=part,
        showlegend=row == 1,
        marker={**fill, "line": {**edge, "width": [3 if layer == chosen else 1 for layer in found.layers]}},
        customdata=np.stack([found.carried.astype(float), found.gone], axis=1),
        meta=describes(role, part, "layer", "share of facts", columns),
        hovertemplate=f"layer %{{x}} carries %{{customdata[0]:.0f}} of {found.facts} facts; "
        "%{customdata[1]:.0%} of that erased<extra>" + plain(f"{role}: {part}") + "</extra>",
        row=row,
        col=1,
    )


def _told(found: Encoded) -> str:
    """The layer that carries most facts, and the least erased of those that carry any."""
    if not found.carried.any():
        return f"no layer carries any of {found.facts} facts"
    most, least = int(found.carried.argmax()), int(np.nanargmin(found.gone))
    return (
        f"layer {found.layers[most]} carries most ({found.carried[most]} of {found.facts} facts, "
        f"{number(float(found.gone[most]))} of them erased), least is erased at layer {found.layers[least]} "
        f"({number(float(found.gone[least]))})"
    )
