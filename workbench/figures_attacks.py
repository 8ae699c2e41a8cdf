"""Every strength, draw and wording an attack was tried with, as dots: what each brought back.

Read it as: a claim about an attack takes its best try; here are all of them, so one that stands out alone is seen. The
small open mark is the same try on facts that nobody was taught.
Does not show: intervals, which runs keep for the best try only; a kind of attack that was not tried.
"""

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

from workbench.figures_style import describes, finish, look_of, number, plain
from workbench.trace import Trace

WIDTH = 58
"""Letters of a try's name."""


def tries_of(trace: Trace) -> dict[str, tuple[float, float | None]]:
    """Try -> (share that came back, the same of facts nobody was taught), as the run noted them; empty for one try.

    Args:
        trace: a reading of the facts with an attack on.
    """
    kinds, attacks = trace.notes.get("by_kind"), trace.notes.get("attacks")
    if isinstance(kinds, Mapping):
        return {str(kind).replace("_", " "): _shares(one) for kind, one in kinds.items() if _told(one)}
    every = [one for one in attacks if _told(one)] if isinstance(attacks, list) else []
    if len(every) < 2:
        return {}
    return {f"{i + 1}: {_name(one, i, len(every))}": _shares(one) for i, one in enumerate(every)}


def doses_of(trace: Trace) -> dict[str, list[str]]:
    """Dose -> the tries of that strength, as `tries_of` names them; empty where the tries do not differ in strength.

    Args:
        trace: a reading of the facts with an attack on.
    """
    attacks = trace.notes.get("attacks")
    every = [one for one in attacks if _told(one)] if isinstance(attacks, list) else []
    found: dict[str, list[str]] = {}
    for i, (name, one) in enumerate(zip(tries_of(trace), every, strict=False)):
        if dose := _dose(one, i, len(every))[0]:
            found.setdefault(dose, []).append(name)
    return found


def tries(traces: Mapping[str, Trace], title: str, units: str, dose: str = "") -> go.Figure:
    """One attack, a row a try, all roles side by side.

    Args:
        traces: role -> reading with the attack on; those without several tries are left out.
        title: what the attack is.
        units: unit of the numbers.
        dose: one of `doses_of`, to show its tries alone; empty for all.
    """
    # The facts nobody was taught, cut out of a reading, still bear the notes of the whole: their shares are `control`.
    roles = {role: trace for role, trace in traces.items() if role != "never taught"}
    found = {role: _of_dose(trace, dose) for role, trace in roles.items() if tries_of(trace)}
    names = list(dict.fromkeys(name for told in found.values() for name in told))
    figure, said = go.Figure(), []
    for position, (role, told) in enumerate(found.items()):
        look = look_of(role, position)
        rows = [name for name in names if name in told]
        figure.add_scatter(
            x=[told[name][0] for name in rows],
            y=[plain(name, WIDTH) for name in rows],
            name=plain(role),
            mode="markers",
            cliponaxis=False,
            marker={"color": look.color, "symbol": look.marker, "size": 10},
            customdata=[[told[name][1]] for name in rows],
            meta=describes("", role, units, "try", ["never taught"]),
            hovertemplate="%{y}: %{x:.3g}<extra>" + plain(role) + "</extra>",
        )
        best = max(rows, key=lambda name: told[name][0])
        said.append(f"{role} at most {number(told[best][0])} ({best})")
    _floor(figure, found.get("checkpoint", {}))
    rows = [plain(name, WIDTH) for name in names]
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=rows[::-1], ticklabelstandoff=8)
    figure.update_xaxes(title_text=plain(units), rangemode="tozero")
    return finish(
        figure, title, f"{title}, {len(names)} tries: {'; '.join(said) or 'none noted'}.", 150 + 24 * len(rows)
    )


def _of_dose(trace: Trace, dose: str) -> dict[str, tuple[float, float | None]]:
    kept = doses_of(trace).get(dose, []) if dose else None
    return {name: shares for name, shares in tries_of(trace).items() if kept is None or name in kept}


def _floor(figure: go.Figure, told: Mapping[str, tuple[float, float | None]]) -> None:
    """What the checkpoint answers of facts nobody was taught, try by try."""
    known = {name: floor for name, (_, floor) in told.items() if floor is not None}
    if known:
        look = look_of("never taught")
        figure.add_scatter(
            x=list(known.values()),
            y=[plain(name, WIDTH) for name in known],
            name="never taught (checkpoint)",
            mode="markers",
            cliponaxis=False,
            marker={"color": look.color, "symbol": "circle-open", "size": 6},
            hovertemplate="%{y}: %{x:.3g}<extra>never taught</extra>",
        )


def _told(one: Any) -> bool:
    return isinstance(one, Mapping) and isinstance(one.get("share"), int | float)


def _shares(one: Mapping[str, Any]) -> tuple[float, float | None]:
    control = one.get("control")
    return float(one["share"]), float(control) if isinstance(control, int | float) else None


def _name(one: Mapping[str, Any], position: int, count: int) -> str:
    """The wording of a prompt, or the dose and its draw, or the methods."""
    edits = [edit for edit in one.get("edits") or () if isinstance(edit, Mapping)]
    template = next((edit["template"] for edit in edits if "template" in edit), None)
    if template is not None:
        return str(template)
    dose, draw = _dose(one, position, count)
    return f"{dose}{draw}" if dose else " + ".join(str(edit.get("method", "")).rpartition(":")[2] for edit in edits)


def _dose(one: Mapping[str, Any], position: int, count: int) -> tuple[str, str]:
    """The strength of a try, and which draw of it: of the option with a value a try, or a value for so many draws.

    Attacks try every value in order, and every draw of one before the next value.
    """
    for edit in one.get("edits") or ():
        for option, values in edit.items() if isinstance(edit, Mapping) else ():
            draws = edit.get("draws", 1)
            if isinstance(values, list) and len(values) > 1 and isinstance(draws, int) and len(values) * draws == count:
                value = values[position // draws]
                return f"{option.removesuffix('s')} {value}", f", draw {position % draws + 1}" if draws > 1 else ""
    return "", ""
