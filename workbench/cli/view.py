"""`workbench view`: the app over the runs on disk, in a browser on this machine."""

import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.console import Screen
from workbench.cli.options import Quiet
from workbench.errors import BadInput, RunError

HOST = "127.0.0.1"
"""The only address the app listens on; another machine reaches it through `ssh -L`."""

FIRST_PORT = 8501
SETTINGS = (
    "--server.address=127.0.0.1",
    "--server.headless=true",
    "--server.fileWatcherType=none",
    "--browser.gatherUsageStats=false",
    "--runner.magicEnabled=false",
    "--client.toolbarMode=minimal",
)
"""As in `.streamlit/config.toml`, so that they hold whatever the user's own settings say."""


def view(
    runs: Annotated[Path, typer.Argument(metavar="[RUNS]", help="Folder of runs, or of one run.")] = Path("runs"),
    port: Annotated[
        int | None, typer.Option("--port", metavar="N", min=1, max=65535, help="Port; a free one when not given.")
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="With the page Live, which opens the models of a run to ask them.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Look at runs in the browser; needs no model and no GPU. Ctrl-C ends it."""
    app = Path(__file__).parents[2] / "app.py"
    if find_spec("streamlit") is None:
        raise BadInput(
            "The app needs streamlit, which is not installed. Install it with: pip install -e '.[app]' (in the folder "
            "of the workbench)"
        )
    if not app.is_file():
        raise RunError(f"There is no {str(app)!r}: the app lies beside the packages. Install with pip install -e .")
    if runs.exists() and not runs.is_dir():
        raise BadInput(f"{str(runs)!r} is a file; name the folder that holds the runs")
    chosen = _free(port)
    screen = Screen(quiet=quiet)
    screen.note(f"Showing the runs in {runs}")
    screen.note(f"Open http://{HOST}:{chosen} on this machine (from another: ssh -L {chosen}:{HOST}:{chosen} …)")
    screen.note("Ctrl-C ends it")
    command = [sys.executable, "-m", "streamlit", "run", str(app), f"--server.port={chosen}", *SETTINGS]
    environment = {
        **os.environ,
        "WORKBENCH_RUNS": str(runs.resolve()),
        "WORKBENCH_LIVE": "1" if live else "0",
        "PYTHONPATH": _path(app.parent),
    }
    code = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False).returncode
    if code not in (0, -2):
        raise RunError(f"The app ended with code {code}; what it said is above")


def _path(home: Path) -> str:
    """Where Python looks for modules: the folder of the app first, so that its pages and packages belong together."""
    return os.pathsep.join(filter(None, (str(home), os.environ.get("PYTHONPATH", ""))))


def _free(port: int | None) -> int:
    """The port asked for, or the first free one.

    Raises:
        BadInput: when it is taken.
    """
    for candidate in (port,) if port else (*range(FIRST_PORT, FIRST_PORT + 20), 0):
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                taken.bind((HOST, int(candidate)))
            except OSError:
                continue
            return int(taken.getsockname()[1])
    raise BadInput(f"Port {port} is taken (by another view?); name another with --port, or leave it out")
