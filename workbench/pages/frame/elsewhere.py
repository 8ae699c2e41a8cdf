"""Readings that an audit does not take: the other runs on the shelf that hold them, Run A first."""

from collections.abc import Callable, Sequence

import streamlit as st

from workbench.pages.frame.chosen import chosen, label
from workbench.pages.frame.escaped import safe
from workbench.pages.frame.reading import Opened
from workbench.pages.frame.url import choose
from workbench.shelf import Shelved, trace_keys

SIDES = ("checkpoint", "base")


def holders(run: Opened, instruments: Sequence[str]) -> dict[str, Shelved]:
    """Every run that holds a reading of these instruments, by name: Run A first, then those of its checkpoint."""
    there = [one for one in chosen().runs if _holds(one, instruments)]
    found = {one.name: one for one in sorted(there, key=lambda one: not is_of(run.on, one))}
    return {run.on.name: run.on, **found} if run.keys(*instruments) else found


def holding(
    run: Opened, instruments: Sequence[str], name: str = "from", shown: Callable[[Shelved], str] = label
) -> Opened | None:
    """Run A if it holds a reading of these instruments, and else the run chosen among those that do.

    Args:
        run: Run A.
        instruments: like `sae_features`.
        name: of the choice in the URL.
        shown: a run -> its text in the box.
    """
    found = holders(run, instruments)
    if not found:
        return None
    if list(found) == [run.on.name]:
        return run
    which = choose("Read in the run", name, list(found), lambda n: shown(found[n]), "Run A first, if it holds one.")
    if which == run.on.name:
        return run
    if not is_of(run.on, found[which]):
        st.info(f"This was read in {safe(found[which].model or which)}, which is not the checkpoint of Run A.")
    return Opened(found[which])


def is_of(run: Shelved, other: Shelved) -> bool:
    """Whether another run is about the same checkpoint (and compares with the same base, where both have one)."""
    if run.name == other.name:
        return True
    asked, there = ((one.manifest or {}).get("question") or {} for one in (run, other))
    roles = asked.get("roles") or {"checkpoint": asked.get("checkpoint")}
    told = {"checkpoint": there.get("checkpoint"), "base": there.get("base") or there.get("against")}
    known = [role for role in SIDES if told[role] and roles.get(role)]
    return "checkpoint" in known and all(told[role] == roles[role] for role in known)


def of_verb(verb: str) -> dict[str, Shelved]:
    """Finished runs of one command, by name."""
    return {one.name: one for one in chosen().runs if one.verb == verb and one.state == "finished"}


def _holds(run: Shelved, instruments: Sequence[str]) -> bool:
    """Looked up on disk only for runs of a single reading: audits are chosen as Run A."""
    if run.verb != "look" or run.state != "finished":
        return False
    return any(key.partition(".")[0] in instruments for keys in trace_keys(run.path).values() for key in keys)
