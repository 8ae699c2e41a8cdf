"""`python -m workbench.demo.worker ORDER`: build one demo model in a process of its own; used by `pair`.

Read it as: ORDER is an `Order` in JSON; on standard output come lines of JSON, `[done, total, seconds left]` while
training and the folder as a string at the end. Does not show: errors; they go to standard error, with exit status 1.
"""

import json
import signal
import sys
from types import FrameType

from workbench.demo.models import Order, fulfil
from workbench.errors import BadInput, RunError

INTERRUPTED = 130
"""Exit status after Ctrl-C or a polite request to end."""


def _say(value: object) -> None:
    """One line of JSON for the parent."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def _stop(_number: int, _frame: FrameType | None) -> None:
    """End as Ctrl-C would, so that scratch folders are removed."""
    raise KeyboardInterrupt


def main(text: str) -> int:
    """Build; return the exit status."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        folder = fulfil(Order.model_validate_json(text), lambda done, total, left: _say([done, total, left]))
    except KeyboardInterrupt:
        return INTERRUPTED
    except (BadInput, RunError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    _say(str(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
