"""The trade-off of every method on the embedded models: what is forgotten, what it cost, what comes back.

    python -m bench.tradeoff [--methods NAME ...] [--seeds 0 1 2] [--jobs 2] [--out DIR] [--docs] [--json]

One cell is one row and one seed: fit, measure, store. The same command goes on where it was stopped, and computes no
cell twice. Seeds are of the method, of the localiser and of the attacks; the taught model is one and the same, so the
spread says nothing about other worlds or models. Settings: `bench.tradeoff_settings`; columns: `COLUMNS`.
"""

import argparse
import json
import multiprocessing
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"  # before torch: a second thread slows tiny models

from bench.tradeoff_measure import Measures, cell, checkpoint_of, question  # noqa: E402
from bench.tradeoff_settings import rows  # noqa: E402
from bench.tradeoff_table import COLUMNS, Row, cells, document  # noqa: E402
from bench.unlearning import ROUTING  # noqa: E402
from bench.unlearning_settings import CONCEPT, Setting  # noqa: E402
from workbench.cli.console import Screen, complain, table  # noqa: E402
from workbench.cli.progress import progress  # noqa: E402
from workbench.concepts import Concept  # noqa: E402
from workbench.datasets import load_concept  # noqa: E402
from workbench.demo.pair import build_pair  # noqa: E402
from workbench.errors import BadInput  # noqa: E402
from workbench.store import question_id, write_atomically, write_json  # noqa: E402

DOCS = Path(__file__).parents[1] / "docs"
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Task:
    """One cell that is asked for."""

    model: str
    """Kind of embedded model."""
    setting: Setting
    seed: int
    checkpoint: Path
    """What the row starts from."""
    question: Mapping[str, Any]
    """What it answers."""
    folder: Path
    """Where cells are stored."""

    @property
    def file(self) -> Path:
        """Where this one is, or will be."""
        slug = self.setting.slug.replace(" ", "-")
        return self.folder / f"{self.model}-{slug}-{self.seed}-{question_id(self.question)}.json"

    @property
    def stored(self) -> dict[str, Any] | None:
        """What was measured; None when it was not, or the file is of another question."""
        try:
            found = json.loads(self.file.read_text())
            return dict(found["measured"]) if found["question"] == dict(self.question) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None


def tasks(methods: Sequence[str], seeds: Sequence[int], folder: Path, measures: Measures) -> list[Task]:
    """Every cell, in the order of the table; builds the embedded models that are missing."""
    concept, found = load_concept(CONCEPT), []
    asked = rows(methods)
    pairs = {
        kind: build_pair(kind, CONCEPT.partition(":")[2], 0, routing=ROUTING[kind])
        for kind in dict.fromkeys(kind for kind, _ in asked)
    }
    for kind, setting in asked:
        checkpoint = checkpoint_of(setting, pairs[kind])
        found += [
            Task(kind, setting, seed, checkpoint, question(setting, seed, checkpoint, concept, measures), folder)
            for seed in seeds
        ]
    return found


def compute(task: Task, concept: Concept, measures: Measures) -> None:
    """Measure one cell and store it whole."""
    found = cell(task.setting, task.seed, task.checkpoint, concept, measures)
    write_json(task.file, {"question": dict(task.question), "measured": found})


def fill(asked: Sequence[Task], measures: Measures, jobs: int, screen: Screen) -> dict[Path, str]:
    """Compute what is not stored, in processes of one thread each; returns what failed, and why."""
    concept, failed = load_concept(CONCEPT), dict[Path, str]()
    missing = [task for task in asked if task.stored is None]
    done = len(asked) - len(missing)
    with progress(screen) as step, _workers(jobs) as pool:
        running: dict[Future[None], Task] = {pool.submit(compute, task, concept, measures): task for task in missing}
        step("trade-off", done, len(asked))
        for future in _finished(running):
            done, task = done + 1, running[future]
            if (error := future.exception()) is not None:
                failed[task.file] = f"{type(error).__name__}: {error}"
                complain(f"{task.setting.label}, seed {task.seed}: {failed[task.file]}")
            step("trade-off", done, len(asked), f"{task.setting.label}, seed {task.seed}")
    return failed


def _workers(jobs: int) -> ProcessPoolExecutor:
    """Fresh processes: a forked one would share this one's torch."""
    return ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))


def _finished(running: Mapping[Future[None], Task]) -> Iterator[Future[None]]:
    """Each future when it is done; on Ctrl-C those that have not begun never do."""
    left = set(running)
    try:
        while left:
            done, left = wait(left, return_when=FIRST_COMPLETED)
            yield from done
    finally:
        for future in left:
            future.cancel()


def gathered(asked: Sequence[Task]) -> list[Row]:
    """The rows of the table, of the cells that are stored."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    labels = {(task.model, task.setting.slug): task.setting for task in asked}
    for task in asked:
        if (stored := task.stored) is not None:
            found.setdefault((task.model, task.setting.slug), []).append(stored)
    return [Row(key[0], labels[key].label, labels[key].where, seeds) for key, seeds in found.items()]


def main(words: Sequence[str] | None = None) -> int:
    """Compute what is missing and show the table.

    Returns:
        Exit code: 0 done, 1 when a cell failed, 2 for bad input, 130 when interrupted.
    """
    parser = argparse.ArgumentParser(prog="bench.tradeoff", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--methods", nargs="*", default=[], metavar="NAME", help="these alone, with the bare models")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), metavar="N")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="processes")
    parser.add_argument("--out", type=Path, default=Path("runs/tradeoff"), help="where cells are stored")
    parser.add_argument("--docs", action="store_true", help="write docs/tradeoff.md and its picture: the whole table")
    parser.add_argument("--json", action="store_true", help="the table as JSON")
    asked = parser.parse_args(words)
    screen = Screen(asked.json)
    try:
        return _run(asked, screen)
    except BadInput as error:
        complain(str(error))
        return 2
    except KeyboardInterrupt:
        complain("Interrupted; the same command goes on where it stopped")
        return 130


def _run(asked: argparse.Namespace, screen: Screen) -> int:
    if asked.docs and (asked.methods or len(set(asked.seeds)) < len(SEEDS)):
        raise BadInput(f"--docs writes the whole table: leave --methods out, and give at least {len(SEEDS)} --seeds")
    if asked.jobs < 1 or len(set(asked.seeds)) < len(asked.seeds):
        raise BadInput("--jobs must be at least 1, and every seed be given once")
    measures = Measures()
    wanted = tasks(asked.methods, asked.seeds, asked.out, measures)
    failed = fill(wanted, measures, asked.jobs, screen)
    found = gathered(wanted)
    paths = written(found, measures, asked) if found and not failed else []
    shown = [
        table(COLUMNS, (cells(row, found) for row in found if row.model == kind), kind)
        for kind in dict.fromkeys(row.model for row in found)
    ]
    payload = {"rows": [row.summary(found) for row in found], "seeds": asked.seeds, "failed": list(failed.values())}
    screen.result(payload, shown, paths)
    return 1 if failed else 0


def written(found: Sequence[Row], measures: Measures, asked: argparse.Namespace) -> list[Path]:
    """The picture beside the cells; with `--docs` the table and the picture of the documentation."""
    from bench.tradeoff_picture import drawn, photographed

    page = write_atomically(asked.out / "tradeoff.html", drawn(found).to_html(include_plotlyjs=True).encode())
    if not asked.docs:
        return [page]
    picture = photographed(page, DOCS / "tradeoff.png")
    concept = load_concept(CONCEPT)
    text = document(found, concept, measures.spec(), asked.seeds, picture=(DOCS / "tradeoff.png").is_file())
    return [page, write_atomically(DOCS / "tradeoff.md", text.encode()), *([picture] if picture else [])]


if __name__ == "__main__":
    sys.exit(main())
