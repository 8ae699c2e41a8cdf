"""The quantisation ladder: what a model answers with its weights as they are stored, and in fewer and fewer bits.

Source: Zhang et al. 2024, https://arxiv.org/abs/2410.16454, who find that answers come back in few bits. Variant: their
question on a ladder of widths; `audits.attacks.quantise` says how the weights are rounded.
Read it as: a checkpoint that climbs on the way to the right, where the reference does not, was hiding the answers in
changes smaller than a step. Where the base falls too, the model breaks there, and that rung says nothing.
Does not show: a width that was not read (its place is empty and named), nor other roundings (NF4, GPTQ, AWQ).
"""

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from workbench.figures_bands import Band, band_of
from workbench.figures_style import MUTED, describes, finish, look_of, number, plain
from workbench.trace import Trace

ABSENT = "not read"


def width_of(trace: Trace) -> str:
    """In how many bits the weights were when this was read: `4 bits`, `bfloat16`, or the dtype the model is open in."""
    options = trace.notes.get("options")
    made = options if isinstance(options, Mapping) else {}
    if isinstance(made.get("bits"), int):
        return f"{made['bits']} bits"
    if str(made.get("method", "")).endswith(":RoundToBfloat16"):
        return "bfloat16"
    return f"as stored ({trace.notes.get('dtype', 'dtype not recorded')})"


def rounding_ladder(rungs: Mapping[str, Mapping[str, Trace]], units: str) -> go.Figure:
    """Answers by width of the weights, all roles side by side.

    Args:
        rungs: width, the widest first -> role -> reading of the same facts; a width without roles was not read.
        units: unit of the numbers.
    """
    roles = list(dict.fromkeys(role for by_role in rungs.values() for role in by_role))
    figure, said = go.Figure(), []
    for position, role in enumerate(roles):
        bands = {width: band_of(by_role[role]) for width, by_role in rungs.items() if role in by_role}
        _steps(figure, role, {width: bands.get(width) for width in rungs}, units, position)
        told = ", ".join(f"{number(float(band.mean[0]))} {width}" for width, band in bands.items())
        said.append(f"{role} {told}")
    lost = [width for width, by_role in rungs.items() if not by_role]
    for width in lost:
        figure.add_annotation(
            x=plain(width), y=0.5, yref="paper", text=ABSENT, textangle=-90, showarrow=False, font={"color": MUTED}
        )
    names = [plain(width) for width in rungs]
    figure.update_xaxes(
        title_text="weights",
        type="category",
        categoryorder="array",
        categoryarray=names,
        range=[-0.5, len(names) - 0.5],
    )
    figure.update_yaxes(title_text=plain(units), range=[-0.04, 1.04])
    figure.update_layout(scattermode="group", scattergap=0.6)
    alt = f"Forget facts by width of the weights ({units}), mean and 95% interval: {'; '.join(said)}."
    alt += f" Not read: {', '.join(lost)}." if lost else ""
    return finish(figure, "The forget facts with the weights in fewer bits", alt, 380)


def _steps(figure: go.Figure, role: str, bands: Mapping[str, Band | None], units: str, position: int) -> None:
    """One role's marks with their intervals, joined by a thin line that breaks where a width was not read."""
    look = look_of(role, position)
    ends = [(band.mean[0], band.low[0], band.high[0]) if band else (np.nan,) * 3 for band in bands.values()]
    mean, low, high = np.array(ends, dtype=float).T
    figure.add_scatter(
        x=[plain(width) for width in bands],
        y=mean,
        name=plain(role),
        mode="lines+markers",
        connectgaps=False,
        cliponaxis=False,
        line={"color": look.color, "dash": look.dash, "width": 1.2},
        marker={"color": look.color, "symbol": look.marker, "size": 10},
        error_y={
            "type": "data",
            "symmetric": False,
            "array": high - mean,
            "arrayminus": mean - low,
            "thickness": 1.6,
            "width": 4,
        },
        customdata=list(zip(low, high, [band.items if band else 0 for band in bands.values()], strict=True)),
        meta=describes("", role, "weights", units, ["low", "high", "items"]),
        hovertemplate="%{x}<br>%{y:.3g} [%{customdata[0]:.3g}, %{customdata[1]:.3g}], %{customdata[2]} items<extra>"
        + plain(role)
        + "</extra>",
    )
