"""What does an update of our gradient methods cost, next to OpenUnlearning's published step?

    python -m bench.gradient [--methods npo rmu] [--shape llama-3.2-1b --device cuda --precision bf16] [--json]

    ours        the method of the catalogue, `fit` with the options that make its loss the published one
    published   its step stated again (`bench.gradient_published`), in transformers' Trainer

Same random-weight model, facts, order, precision, rate and batch; each side loads the model as it does by itself (eager
attention here, transformers' default there). Both are trained in turns in one process; `faster` is the median over
updates, pair by pair, of CPU seconds (on a GPU: of seconds), with the least and the most. Tokens are those of texts,
without padding. What ours computes before training (references, where everything is) is in no update: `all told`
spreads it over ten rounds of the facts; the published side's copy of the model is not counted against it.
Memory is of a whole training in a process of its own: the peak less what was there after imports and a training of a
tiny model. Ours also holds the copy from which the model is put back. Losses of the first batch are compared.
Does not show: what either does to a model that knows something.
"""

import argparse
import contextlib
import gc
import json
import logging
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from bench import memory
from bench.gradient_sides import Asked, Ours, Published, Timed, method_of, pairs_of
from bench.gradient_subject import MATCHES, SHAPES, Shape, our_pairs
from interventions.gradient.pairs import Pair
from workbench.errors import BadInput

SIDES = ("ours", "published")
ROUNDS_OF_FACTS = 10
"""Over which what is computed before training is spread; OpenUnlearning trains so many."""
TOLERANCE = {"fp32": 1e-4, "bf16": 3e-2}
"""By which losses of the same formula may differ, as a share."""


@dataclass(frozen=True)
class Row:
    """What was measured of one method."""

    method: str
    ours: float
    """Tokens a second."""
    published: float
    faster: float
    """Published seconds of an update by ours: median over updates, pair by pair."""
    least: float
    """The smallest and the largest of these."""
    most: float
    before: float
    """Seconds before the first update of ours, as a share of an update, spread over ten rounds."""
    all_told: float
    """`faster`, with that counted."""
    ours_mb: float
    """Peak memory."""
    published_mb: float
    loss: float
    """Relative difference of the first losses."""
    same: bool
    """Whether they are meant to be equal."""


def text_tokens(pairs: Sequence[Pair], batch: int) -> list[int]:
    """Tokens of the texts of each batch, without padding."""
    each = [sum(len(text.encoded.ids) for text in (p.forget, p.retain, p.other) if text) for p in pairs]
    return [sum(each[start : start + batch]) for start in range(0, len(each), batch)]


def speed(name: str, asked: Asked, shape: Shape, extra: dict[str, Any]) -> tuple[list[Timed], list[Timed], list[int]]:
    """Trainings of ours and of the published step, in turns, and the tokens of each update."""
    ours = Ours(name, asked, shape, extra)
    pairs = our_pairs(name, ours.model, ours.told, ours.method)
    published = Published(name, asked, shape, pairs)
    start = {key: value.clone() for key, value in published.model.state_dict().items()}
    found: tuple[list[Timed], list[Timed]] = ([], [])
    for turn in range(asked.rounds):
        for side, one in ((0, ours), (1, published)) if turn % 2 else ((1, published), (0, ours)):
            found[side].append(one.train())
            gc.collect()
        published.model.load_state_dict(start)
    return *found, text_tokens([p if with_retain(ours) else Pair(p.forget, other=p.other) for p in pairs], asked.batch)


def with_retain(ours: Ours) -> bool:
    """Whether retain facts pass through the model."""
    return bool(getattr(ours.method, "retains", True))


def peak(name: str, side: str, asked: Asked, extra: dict[str, Any]) -> float:
    """In a process of its own: megabytes of a whole training, after one of a tiny model."""
    shape = SHAPES[asked.shape]
    pairs = pairs_of(name, asked, shape) if side == "published" else []

    def work(shape: Shape) -> None:
        (Ours(name, asked, shape, extra) if side == "ours" else Published(name, asked, shape, pairs or None)).train()

    tiny = Shape({**SHAPES["tiny"].config, "vocab_size": shape.vocabulary}, 0)
    work(tiny)
    gc.collect()
    if asked.device == "cpu":
        return memory.peak_of(lambda: work(shape))
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work(shape)
    return float(torch.cuda.max_memory_allocated() - before) / 2**20


def peak_of(name: str, side: str, asked: Asked, extra: dict[str, Any]) -> float:
    """The same from here."""
    fewer = json.dumps({**asdict(asked), "steps": min(asked.steps, 3)})
    command = [sys.executable, "-m", "bench.gradient", "--peak", name, side, fewer, json.dumps(extra)]
    # tensors of their own pages go back to the system when they are freed, so that the peak is of what is alive
    alive = {"MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **alive})
    if done.returncode:
        raise RuntimeError(f"{side} {name} failed:\n{done.stderr}")
    return float(json.loads(done.stdout.splitlines()[-1])["megabytes"])


def row_of(name: str, asked: Asked, extra: dict[str, Any]) -> Row:
    """Measure one method.

    Raises:
        RuntimeError: when losses differ that should not.
    """
    shape = SHAPES[asked.shape]
    ours, published, tokens = speed(name, asked, shape, extra)
    ratios = [p / o for a, b in zip(ours, published, strict=True) for o, p in zip(a.updates, b.updates, strict=True)]
    update = statistics.median(spent for one in ours for spent in one.updates)
    before = statistics.median(one.before for one in ours) - update
    share = max(0.0, before) / (ROUNDS_OF_FACTS * asked.steps) / update
    rate, their_rate = (_rate(tokens[1:], side) for side in (ours, published))
    mine, theirs = (peak_of(name, side, asked, extra) for side in SIDES)
    match, median = MATCHES[name], statistics.median(ratios)
    off = abs(ours[0].loss - published[0].loss) / max(abs(published[0].loss), 1.0)
    if match.same and off > TOLERANCE[asked.precision]:
        raise RuntimeError(f"{name}: the first loss is {ours[0].loss} here and {published[0].loss} as published")
    return Row(
        name,
        rate,
        their_rate,
        median,
        min(ratios),
        max(ratios),
        share,
        median / (1 + share),
        mine,
        theirs,
        off,
        match.same,
    )


def _rate(tokens: Sequence[int], side: Sequence[Timed]) -> float:
    """Tokens a second: each update's median over the rounds."""
    return sum(tokens) / sum(statistics.median(spent) for spent in zip(*(one.updates for one in side), strict=True))


def shown(row: Row) -> str:
    """A line of the table."""
    said = f"same loss to {row.loss:.0e}" if row.same else "loss over other positions"
    return (
        f"{row.method:12}{row.ours:9,.0f}{row.published:11,.0f}{row.faster:7.2f}x [{row.least:.2f} {row.most:.2f}]"
        f"{row.all_told:8.2f}x{row.ours_mb:9,.0f}{row.published_mb:11,.0f}"
        f"{row.ours_mb / row.published_mb:7.2f}x  {said}"
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m bench.gradient", description=str(__doc__).partition("\n")[0])
    made.add_argument("--methods", nargs="+", choices=MATCHES, default=list(MATCHES), metavar="METHOD", help="which")
    made.add_argument("--shape", choices=SHAPES, default="small", help="size of the random-weight model")
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    made.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of weights and passes")
    made.add_argument("--steps", type=int, default=6, help="updates of a training, at least 2")
    made.add_argument("--batch", type=int, default=8, help="forget facts an update")
    made.add_argument("--rounds", type=int, default=3, help="trainings of each side")
    made.add_argument("--set", nargs="+", default=[], metavar="OPTION=VALUE", help="other options of our method")
    made.add_argument("--json", action="store_true", help="rows as JSON instead of a table")
    made.add_argument("--peak", nargs=4, help=argparse.SUPPRESS)
    return made


def options_of(words: Sequence[str]) -> dict[str, Any]:
    """`unembed=all` and the like; values as JSON where they are."""
    found: dict[str, Any] = {}
    for word in words:
        key, mark, value = word.partition("=")
        if not mark:
            raise BadInput(f"--set takes OPTION=VALUE, for instance unembed=all; got {word!r}")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found


def checked(given: argparse.Namespace) -> tuple[Asked, dict[str, Any]]:
    """What was asked for, if it can be measured.

    Raises:
        BadInput: saying what cannot.
    """
    if given.steps < 2 or given.batch < 1 or given.rounds < 1:
        raise BadInput("--steps must be at least 2 (the first update is not counted), --batch and --rounds at least 1")
    if given.device == "cuda" and not torch.cuda.is_available():
        raise BadInput("--device cuda: torch sees no GPU here; use --device cpu, or a machine with one")
    asked = Asked(given.shape, given.device, given.precision, given.steps, given.batch, given.rounds)
    extra = options_of(given.set)
    for name in given.methods:
        method_of(name, asked, SHAPES[asked.shape], extra)
    return asked, extra


def main(words: Sequence[str] | None = None) -> int:
    """Measure, and print a line for every method."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    given = parser().parse_args(words)
    if given.peak:
        name, side, asked, extra = given.peak
        print(json.dumps({"megabytes": peak(name, side, Asked(**json.loads(asked)), json.loads(extra))}))
        return 0
    try:
        asked, extra = checked(given)
    except BadInput as error:
        print(error, file=sys.stderr)
        return 2
    if not given.json:
        seconds = "CPU seconds of one thread" if asked.device == "cpu" else "seconds"
        print(f"{asked.shape}, {asked.device}, {asked.precision}, {asked.batch} forget facts an update; {seconds}")
        print(f"{'':12}{'tokens a second':>20}{'faster':>22}{'all told':>9}{'peak MB':>20}{'':7}")
        print(f"{'':12}{'ours':>9}{'published':>11}{'':31}{'ours':>9}{'published':>11}")
    rows = []
    for name in given.methods:
        print(f"{name} ...", file=sys.stderr, flush=True)
        with contextlib.redirect_stdout(sys.stderr):  # the trainer prints a summary
            rows.append(row_of(name, asked, extra))
        if not given.json:
            print(shown(rows[-1]), flush=True)
    if given.json:
        print(json.dumps({"asked": asdict(asked), "set": extra, "rows": [asdict(row) for row in rows]}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
