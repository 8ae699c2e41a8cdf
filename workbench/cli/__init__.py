"""The command line: `workbench VERB ...`, a file a verb.

This folder stands on the roof: it may import probes, interventions and audits, but only inside functions, so that
`workbench --help` answers at once and imports neither torch nor any other heavy library. stdout carries the result,
everything else goes to stderr. Exit codes are in `workbench.cli.failures`.
"""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated, Any

import typer
import typer.core

from workbench.cli.failures import guarded
from workbench.errors import BadInput, did_you_mean

VERBS = {
    "demo": "demo:demo",
    "audit": "audit:audit",
    "unlearn": "unlearn:unlearn",
    "look": "look:look",
    "compare": "compare:compare",
    "report": "report:report",
    "view": "view:view",
    "list": "listing:listing",
    "data": "data:data",
    "schema": "schema:schema",
    "verify": "verify:verify",
    "doctor": "doctor:doctor",
}
"""Every verb -> its module in this folder and the function in it, in the order that `--help` shows."""

TAKES = {"unlearn": ("interventions",), "look": ("probes", "behaviour")}
"""Verbs that are given a method -> the kinds it may be of."""

QUIET_ENVIRONMENT = {"HF_HUB_DISABLE_TELEMETRY": "1", "WANDB_MODE": "disabled", "TOKENIZERS_PARALLELISM": "false"}
"""Set before any library is imported: nothing phones home, and tokenizers do not start threads."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; an error that is a bug leaves as an exception with its traceback."""
    for name, value in QUIET_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # model text may hold what a terminal's encoding does not
            stream.reconfigure(errors="replace")
    words = list(sys.argv[1:] if argv is None else argv)
    code = guarded(lambda: command().main(args=words, prog_name="workbench", standalone_mode=False))
    about = _asked_about(words)
    if code or about is None:
        return code
    return guarded(lambda: command().main(args=["list", *about], prog_name="workbench", standalone_mode=False))


def _asked_about(words: Sequence[str]) -> tuple[str, str] | None:
    """Kind and name of the method that `workbench VERB METHOD --help` asks about; its options follow the verb's."""
    if not words or words[0] not in TAKES or "--help" not in words:
        return None
    from workbench.cli.catalogue import catalogue_of

    return next(((kind, word) for word in words[1:] for kind in TAKES[words[0]] if word in catalogue_of(kind)), None)


def command() -> Any:
    """The whole command line as one click command."""
    app = typer.Typer(
        cls=Verbs,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        add_completion=False,
        no_args_is_help=True,
        help="Says, with evidence from inside a language model, whether knowledge "
        "was removed from it or only silenced.",
        epilog="`workbench VERB --help` shows the options of a "
        "verb. WORKBENCH_THREADS sets the number of CPU threads, WORKBENCH_CACHE_DIR the cache folder.",
    )
    app.callback()(_about)
    for verb, place in VERBS.items():
        module, _, function = place.partition(":")
        if find_spec(f"workbench.cli.{module}"):
            app.command(verb)(getattr(import_module(f"workbench.cli.{module}"), function))
    return typer.main.get_command(app)


class Verbs(typer.core.TyperGroup):
    """The group of all verbs, which says what it has when it is asked for something else."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the verb; one that does not exist gets the nearest that does."""
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            raise BadInput(f"No verb called {args[0]!r}. {did_you_mean(args[0], self.commands)}")
        return super().resolve_command(ctx, args)


def _version(asked: bool) -> bool:
    if asked:
        from workbench import __version__

        sys.stdout.write(f"{__version__}\n")
        raise typer.Exit
    return asked


def _about(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Nothing to do before a verb."""
