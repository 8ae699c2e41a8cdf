"""`build_pair`: the taught model and its reference, trained side by side in two processes of one thread each.

Read it as: `build_pair("dense").taught` and `.reference` are checkpoint folders. Ctrl-C ends both processes, and
neither leaves a half-written model. Does not show: which of the two was faster; they share the machine.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import workbench.demo
from workbench.demo.models import Order, order_of
from workbench.errors import RunError

PairProgress = Callable[[str, int, int, float], None]
"""Called with the role, its steps done, its steps in all, and its seconds left."""

_PATIENCE = 10.0
"""Seconds a process gets to end politely."""

_POLL = 0.2
"""Seconds between two looks at the processes."""


@dataclass(frozen=True)
class Pair:
    """Two demo models that differ in what they have read."""

    taught: Path
    """Has read everything."""
    reference: Path
    """Has read everything but the concept."""


@dataclass
class _Worker:
    """One process at work."""

    order: Order
    process: subprocess.Popen[str]
    errors: IO[str]
    news: list[tuple[int, int, float]] = field(default_factory=list)
    """Progress that has come and was not yet passed on."""
    reader: threading.Thread | None = None

    def listen(self) -> None:
        """Collect what the process says until it falls silent."""
        for line in self.process.stdout or ():
            with contextlib.suppress(json.JSONDecodeError):
                said = json.loads(line)
                if isinstance(said, list):
                    self.news.append((int(said[0]), int(said[1]), float(said[2])))

    def look(self, progress: PairProgress | None) -> bool:
        """Whether the process still works; passes its latest progress on.

        Raises:
            RunError: when it has failed, naming the model, with the end of what the process wrote.
        """
        status = self.process.poll()
        if status is not None and self.reader:
            self.reader.join()
        waiting, self.news = self.news, []
        if waiting and progress:
            progress(self.order.role, *waiting[-1])
        if status:
            self.errors.seek(0)
            last = self.errors.read().strip().splitlines()[-3:]
            raise RunError(
                f"The {self.order.role} demo model ({self.order.kind}, seed {self.order.seed}) could not be "
                f"built, its process ended with status {status}: {' | '.join(last) or 'no message'}"
            )
        return status is None

    def end(self) -> None:
        """Ask the process to end, then insist; wait until it has."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.reader:
            self.reader.join()
        if self.process.stdout:
            self.process.stdout.close()
        self.errors.close()


def _environment() -> dict[str, str]:
    """Ours, with one thread, and with this very copy of the project importable."""
    root = str(Path(workbench.demo.__path__[0]).parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}


def _start(order: Order) -> _Worker:
    """Start the process that builds one model."""
    errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115  # closed by `end`
    process = subprocess.Popen(
        [sys.executable, "-m", "workbench.demo.worker", order.model_dump_json()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        env=_environment(),
    )
    worker = _Worker(order, process, errors)
    worker.reader = threading.Thread(target=worker.listen, daemon=True)
    worker.reader.start()
    return worker


@contextlib.contextmanager
def _working(orders: list[Order]) -> Iterator[list[_Worker]]:
    """Processes for some orders, all of them ended afterwards, whatever happens."""
    workers: list[_Worker] = []
    try:
        for order in orders:
            workers.append(_start(order))
        yield workers
    finally:
        for worker in workers:
            if worker.process.poll() is None:
                worker.process.terminate()  # all at once; `end` then waits for each
        for worker in workers:
            worker.end()


def fulfil_all(orders: Sequence[Order], progress: PairProgress | None = None) -> None:
    """Build what is ordered and not in the cache, each in a process of its own, all at the same time.

    Raises:
        RunError: when one of them could not be built; the message names it, and the others are stopped.
    """
    with _working([order for order in orders if not order.built]) as workers:
        while any([worker.look(progress) for worker in workers]):
            time.sleep(_POLL)


def build_pair(
    kind: str = "dense",
    concept: str = "chemistry",
    seed: int = 0,
    progress: PairProgress | None = None,
    *,
    routing: str = "free",
) -> Pair:
    """Both models of a concept, trained now (those that are missing) or found in the cache.

    Raises:
        BadInput: for a kind, routing or concept that does not exist.
        RunError: when one of them could not be built; the message names it, and the other is stopped.
    """
    orders = [order_of(kind, role, concept, seed, routing=routing) for role in ("taught", "reference")]
    fulfil_all(orders, progress)
    return Pair(*(order.folder for order in orders))
