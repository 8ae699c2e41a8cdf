"""The app on a real server for measurements, pictures and browser tests: started as `workbench view` does, then ended.

Read it as: `serving(RUNS)` gives the address while the block runs; `CHROMIUM` is the browser, None where there is none.
"""

import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workbench.cli.view import SETTINGS, _free

ROOT = Path(__file__).parents[1]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chromium-headless-shell"))), None)
PATIENCE = 60.0
"""Seconds for the server to come up; the machine may be busy."""


@contextmanager
def serving(runs: Path, app: Path = ROOT / "app.py", live: bool = False) -> Iterator[str]:
    """The address of the app over a folder of runs.

    Args:
        runs: the folder.
        app: another script to serve, for a comparison.
        live: with the page Live.

    Raises:
        RuntimeError: when the server ends or does not come up.
    """
    port = _free(None)
    environment = {**os.environ, "WORKBENCH_RUNS": str(runs.resolve()), "PYTHONPATH": str(ROOT)}
    environment |= {"WORKBENCH_LIVE": "1"} if live else {}
    command = [sys.executable, "-m", "streamlit", "run", str(app), f"--server.port={port}", *SETTINGS]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}/"
    try:
        _wait(process, address)
        yield address
    finally:
        process.terminate()
        process.wait(20)


def _wait(process: "subprocess.Popen[bytes]", address: str) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(f"{address}_stcore/health", timeout=1)
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError("The app's server did not come up")
