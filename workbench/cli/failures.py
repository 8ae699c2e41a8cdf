"""From what went wrong to one message on stderr and an exit code; a bug keeps its traceback.

Codes: 0 done; 1 the run failed, or problems were found; 2 bad input, or nowhere to write; 3 the audit finished below
the level that --require asked for; 4 it finished, but a claim is undecided (--strict); 130 interrupted with Ctrl-C.
"""

import errno
from collections.abc import Callable
from typing import Any

import typer

from workbench.cli.console import complain
from workbench.errors import BadInput, RunError, did_you_mean

DONE, FAILED, BAD_INPUT, BELOW_REQUIRED, UNDECIDED, INTERRUPTED = 0, 1, 2, 3, 4, 130

DISK = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EROFS: "the disk is read-only; name another folder with --out",
    errno.EACCES: "there is no permission; name another folder with --out",
}
"""Errors of the disk that are the caller's to mend, and how."""


def guarded(run: Callable[[], int | None]) -> int:
    """Run a command; expected errors become a message and a code, all others pass through."""
    try:
        code = run() or DONE
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BadInput as error:
        return _said(str(error), BAD_INPUT)
    except RunError as error:
        return _said(str(error), FAILED)
    except typer.TyperException as error:
        return _said(usage_words(error), BAD_INPUT)
    except OSError as error:
        if error.errno not in DISK:
            raise
        where = f" {str(error.filename)!r}" if error.filename else ""
        return _said(f"Cannot write{where}: {DISK[error.errno]}, then run the same command again", BAD_INPUT)
    if code == INTERRUPTED:
        complain("interrupted; run the same command again to resume")
    return code


def usage_words(error: Any) -> str:
    """What is wrong with the words of a command, and what is allowed instead."""
    context = getattr(error, "ctx", None)
    message = str(error.format_message()).rstrip()
    if type(error).__name__ == "NoArgsIsHelpError" or context is None:
        return message
    if hasattr(error, "option_name") and hasattr(error, "possibilities"):
        known = [
            name
            for parameter in context.command.params
            for name in getattr(parameter, "opts", ())
            if name.startswith("-")
        ]
        message = f"{context.info_name} has no option {error.option_name!r}. {did_you_mean(error.option_name, known)}"
    return f"{message.removesuffix('.')}. See `{context.command_path} --help`"


def _said(message: str, code: int) -> int:
    complain(message)
    return code
