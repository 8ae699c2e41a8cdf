"""The two ways a command can fail: the caller asked for something impossible, or our own work broke.

`BadInput` is the caller's to mend, so its message always says what came, what is allowed and what to do;
the command line prints it without a traceback and exits with 2. `RunError` is a run that could not finish
(exit 1). Everything else is a bug and keeps its traceback.
"""

import difflib
from collections.abc import Iterable
from typing import Any


class BadInput(ValueError):
    """The caller's mistake: what came, what is allowed, what to do."""


class RunError(RuntimeError):
    """A run that could not be finished, through no fault of its input."""


class Diverged(RunError):
    """A training whose loss or gradient is no longer a finite number."""

    kept: int | None = None
    """The update after which its parameters were last kept; None when they were not."""
    edit: Any = None
    """What the training had done by then, as an edit, where that is a result of the method."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of an error message: the nearest known name, and all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    guess = f"Did you mean {near[0]!r}? " if near else ""
    return f"{guess}There are: {', '.join(names)}"
