"""Every way one fact was asked: as taught, in other words, with something in front, and with an attack on.

A wording has a label of its own (`3: As for Ada , the trade is`); its trace notes which forget fact each words anew
(`rewords`). An attack asks the forget facts under their own labels, the control facts behind them; its notes hold every
try with the facts it `answered`. What an older run did not note is not guessed: wordings then have no rows
(`unmatched`), and an attack has one row, its best try.
Read it as: one `Asking` is one row: what was done, with which prompt, and one number a model, 1 for the answer.
Does not show: how near a wrong answer was, nor (but for the fact as taught) what was said instead.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from workbench.report_pictures import ATTACK_INSTRUMENTS, Key
from workbench.trace import Trace

WORDINGS = {"paraphrases": "paraphrase", "formats": "format"}
"""Set of rewordings -> what one of them is called."""

DIRECT = "asked as taught"
TAUGHT = {
    "accuracy": DIRECT,
    "answer_probability": "probability of the answer",
    "best_of_n": "best of many samples",
    "choice": "choice among answers",
}
"""Readings of the fact's own prompt that have one number a fact between 0 and 1 -> what they are called."""

SAID = ("answer_tokens.forget", "said"), ("generations.forget", "text")
"""Readings that hold what a model said, the best first, and the note it stands in."""

Readings = Mapping[str, Mapping[str, Trace]]
"""Key -> role -> trace."""


@dataclass(frozen=True)
class Asking:
    """One way a fact was asked."""

    what: str
    """What was done: `paraphrase 1`, `jailbreak, try 2`. The same for every fact."""
    prompt: str
    """What the model was asked; empty where the run did not store it."""
    units: str
    """Unit of the numbers; 1 is the answer, 0 is not."""
    values: Mapping[str, float] = field(default_factory=dict)
    """Role -> number; NaN where this fact was not asked so."""
    said: Mapping[str, str] = field(default_factory=dict)
    """Role -> what it said, where that is stored."""


def askings(readings: Readings, fact: str) -> list[Asking]:
    """Every way a fact was asked, as taught first.

    Args:
        readings: of a run; those that ask nothing (probes, lens, utility) are passed over.
        fact: label of a forget fact, whole, so that a wording of the same number is not taken for it.
    """
    found: list[Asking] = []
    for key in sorted(readings, key=_order):
        found += _of_reading(key, readings[key], fact)
    said = {role: text for key, note in reversed(SAID) for role, text in _said(readings.get(key, {}), note, fact)}
    first = next((i for i, one in enumerate(found) if one.what == DIRECT), None)
    if first is not None and said:
        one = found[first]
        found[first] = Asking(one.what, one.prompt, one.units, one.values, said)
    return found


def asks(key: str, trace: Trace) -> bool:
    """Whether a reading asks facts and belongs under an item: as taught, in other words, or under an attack."""
    parsed = Key.parse(key)
    return "fact" in trace.axes and (
        parsed.on in WORDINGS or (parsed.on == "forget" and (parsed.instrument in TAUGHT or is_attack(key, trace)))
    )


def is_attack(key: str, trace: Trace) -> bool:
    """Whether a reading was taken under an attack: its key or its notes say so."""
    parsed = Key.parse(key)
    return bool(parsed.attack) or parsed.instrument in ATTACK_INSTRUMENTS or "threat" in trace.notes


def unmatched(readings: Readings) -> list[str]:
    """Readings of rewordings that do not note which fact each words anew: they were made before runs noted it."""
    return [key for key, traces in readings.items() if Key.parse(key).on in WORDINGS and not _rewords(traces)]


def parent_of(trace: Trace, label: str) -> str | None:
    """Label of the forget fact that a wording words anew; None where the trace does not tell."""
    parents = trace.notes.get("rewords")
    labels = trace.labels.get("fact", ())
    known = isinstance(parents, list) and len(parents) == len(labels) and label in labels
    return str(parents[labels.index(label)]) if known else None  # type: ignore[index]  # a list, as `known` says


def askings_table(found: Sequence[Asking], pinned: Sequence[Asking] = ()) -> pd.DataFrame:
    """A row a way of asking, a column a role; behind them the numbers of a pinned fact that was asked the same way."""
    other = {one.what: one for one in pinned}
    roles, theirs = _roles(found), _roles(pinned)
    rows = []
    for one in found:
        row: dict[str, Any] = {"asked": one.what}
        row |= {role: one.values.get(role, math.nan) for role in roles}
        values = other[one.what].values if one.what in other else {}
        row |= {f"pinned: {role}": values.get(role, math.nan) for role in theirs}
        row |= {"prompt": one.prompt or None, "unit": one.units}
        row |= {f"{role} said": one.said[role] for role in roles if role in one.said}
        rows.append(row)
    return pd.DataFrame(rows)


def _order(key: str) -> tuple[int, str]:
    """As taught, then other words, then attacks by prompt, then by weights."""
    parsed = Key.parse(key)
    if parsed.on in WORDINGS:
        return 1, key
    if parsed.instrument in TAUGHT and not parsed.attack:
        return 0, str(list(TAUGHT).index(parsed.instrument))
    return (3 if parsed.axis == "recoverability" else 2), key


def _of_reading(key: str, traces: Mapping[str, Trace], fact: str) -> Iterator[Asking]:
    there = {role: trace for role, trace in traces.items() if asks(key, trace)}
    if there:
        yield from (_worded if Key.parse(key).on in WORDINGS else _attacked)(Key.parse(key), there, fact)


def _rewords(traces: Mapping[str, Trace]) -> list[tuple[str, str]]:
    """(label of a wording, label of its fact), as some role noted them."""
    for trace in traces.values():
        labels, parents = trace.labels.get("fact", ()), trace.notes.get("rewords")
        if isinstance(parents, list) and len(parents) == len(labels):
            return [(label, str(parent)) for label, parent in zip(labels, parents, strict=True)]
    return []


def _worded(key: Key, traces: Mapping[str, Trace], fact: str) -> Iterator[Asking]:
    own = [label for label, parent in _rewords(traces) if parent == fact]
    name = WORDINGS[key.on] if key.instrument == "accuracy" else f"{key.instrument} of {WORDINGS[key.on]}"
    for number, label in enumerate(own, start=1):
        values = {role: _value(trace, label) for role, trace in traces.items()}
        said = dict(_said(traces, "text", label))
        yield Asking(f"{name} {number}".replace("_", " "), _prompt(label), _units(traces), values, said)


def _attacked(key: Key, traces: Mapping[str, Trace], fact: str) -> Iterator[Asking]:
    """The tries that are noted a fact at a time; else one row, the best try or the last step."""
    tried = {role: _tries(trace, fact) for role, trace in traces.items()}
    name = (key.attack or TAUGHT.get(key.instrument, key.instrument)).replace("_", " ")
    for what in dict.fromkeys(what for rows in tried.values() for what in rows):
        values = {role: rows[what][1] if what in rows else math.nan for role, rows in tried.items()}
        prompt = _one_or_all({role: rows[what][0] for role, rows in tried.items() if what in rows})
        yield Asking(f"{name}, {what}" if what else name, prompt, _units(traces), values)
    if not any(tried.values()) and any(fact in trace.labels["fact"] for trace in traces.values()):
        trace = next(iter(traces.values()))
        what = f"{name}, {_last_step(trace)}" if "step" in trace.axes else name
        values = {role: _value(one, fact) for role, one in traces.items()}
        yield Asking(what, _prompt_under(trace, fact), _units(traces), values)


def _one_or_all(prompts: Mapping[str, str]) -> str:
    """The prompt; where each model was given another (a search finds one for each), all of them by role."""
    if len(set(prompts.values())) == 1:
        return next(iter(prompts.values()))
    return " / ".join(f"{role}: {prompt}" for role, prompt in prompts.items())


def _tries(trace: Trace, fact: str) -> dict[str, tuple[str, float]]:
    """Try -> (prompt, number) of one fact, as the notes tell them; empty where they do not."""
    labels = trace.labels["fact"]
    if fact not in labels:
        return {}
    at = labels.index(fact)
    kinds, attacks, contexts = (trace.notes.get(name) for name in ("by_kind", "attacks", "prompts"))
    if isinstance(kinds, Mapping):
        return {
            str(kind).replace("_", " "): (" / ".join(one["prompts"][at]), _number(one["answered"][at]))
            for kind, one in kinds.items()
            if _holds(one, at) and len(one.get("prompts") or ()) > at
        }
    if isinstance(attacks, list):
        told = {_try_name(one, i, len(attacks)): one for i, one in enumerate(attacks) if _holds(one, at)}
        return {name: (_filled(one, trace, at), _number(one["answered"][at])) for name, one in told.items()}
    if isinstance(contexts, Mapping) and "step" in trace.axes:
        cut = trace.mean("seed") if "seed" in trace.axes else trace
        steps = [step for step in trace.labels["step"] if len(contexts.get(step) or ()) > at]
        return {
            f"{step} facts before it": (
                contexts[step][at] or "",
                float(cut.pick("step", step).pick("fact", fact).values),
            )
            for step in steps
        }
    return {}


def _try_name(one: Mapping[str, Any], position: int, count: int) -> str:
    """The option that has a value for each try (`share 0.3`), else the try's number; nothing for a single try."""
    if count == 1:
        return ""
    for option, values in ((option, values) for edit in one.get("edits") or () for option, values in edit.items()):
        if isinstance(values, list) and len(values) == count:
            return f"{option.removesuffix('s')} {values[position]}"
    return f"try {position + 1}"


def _holds(one: object, at: int) -> bool:
    return isinstance(one, Mapping) and isinstance(one.get("answered"), list) and len(one["answered"]) > at


def _filled(one: Mapping[str, Any], trace: Trace, at: int) -> str:
    """The prompt of a try: its template with the fact in it, the fact's own prompt where it has none."""
    prompt, named = _prompt(trace.labels["fact"][at]), trace.notes.get("named")
    template = next((edit["template"] for edit in one.get("edits") or () if "template" in edit), "{prompt}")
    if isinstance(named, list) and len(named) > at:
        template = template.replace("{subject}", str(named[at]))
    return str(template).replace("{prompt}", prompt)


def _prompt_under(trace: Trace, fact: str) -> str:
    """The prompt an attack of a single try gave; empty where tries differ and the run does not tell which was best."""
    attacks = trace.notes.get("attacks")
    if isinstance(trace.notes.get("by_kind"), Mapping) or "by_shots" in trace.notes or fact not in trace.labels["fact"]:
        return ""
    if not isinstance(attacks, list):
        return _prompt(fact)
    prompts = {_filled(one, trace, trace.labels["fact"].index(fact)) for one in attacks}
    return prompts.pop() if len(prompts) == 1 else ""


def _last_step(trace: Trace) -> str:
    step = trace.labels["step"][-1]
    return f"{step} facts before it" if "by_shots" in trace.notes else f"after {step} steps"


def _said(traces: Mapping[str, Trace], note: str, fact: str) -> Iterator[tuple[str, str]]:
    for role, trace in traces.items():
        texts, labels = trace.notes.get(note), trace.labels.get("fact", ())
        if isinstance(texts, list) and fact in labels and len(texts) == len(labels):
            yield role, str(texts[labels.index(fact)])


def _value(trace: Trace, fact: str) -> float:
    """One number: the mean over seeds at the last step; NaN where the fact was not asked."""
    if fact not in trace.labels["fact"]:
        return math.nan
    one = trace.pick("fact", fact)
    one = one.pick("step", one.labels["step"][-1]) if "step" in one.axes else one
    one = one.mean("seed") if "seed" in one.axes else one
    return float(one.values) if np.ndim(one.values) == 0 else math.nan


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _prompt(label: str) -> str:
    return label.partition(": ")[2] or label


def _units(traces: Mapping[str, Trace]) -> str:
    return next(iter(traces.values())).units


def _roles(found: Sequence[Asking]) -> list[str]:
    return list(dict.fromkeys(role for one in found for role in one.values))
