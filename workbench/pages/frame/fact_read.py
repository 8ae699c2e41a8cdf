"""The fact a page shows of a reading that holds only some of them: the chosen one, or the first that was read."""

from workbench.pages.frame.chosen import chosen
from workbench.pages.frame.reading import Opened
from workbench.pages.frame.states import absent
from workbench.trace import Trace
from workbench.trace_cuts import fact_number


def fact_read(run: Opened, trace: Trace, what: str) -> tuple[str, str] | None:
    """Number and label of the fact; a card with the command that reads more facts, and None, where it was not read.

    Args:
        run: Run A.
        trace: one of the reading's traces, with the axis fact.
        what: what is read of a fact, as in `Routing`.
    """
    there = {fact_number(label): label for label in trace.labels["fact"]}
    number = chosen().fact or next(iter(there))
    if number in there:
        return number, there[number]
    absent(
        f"{what} of fact {number}",
        f"it is read of the first {len(there)} facts only; reading.trace_facts sets how many",
        f"{run.again} --set reading.trace_facts={int(number) + 1 if number.isdigit() else 'N'}",
    )
    return None
