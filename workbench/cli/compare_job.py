"""A comparison as a run on disk: the question it answers, and its making. No printing here.

Read it as: the same checkpoints and options are the same question, whoever asks: `workbench compare` or the demo.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from workbench.checkpoint import Checkpoint
from workbench.compare import compare
from workbench.comparison import CompareOptions
from workbench.store import RunFolder
from workbench.telling import Telling

Pair = tuple[Checkpoint, Checkpoint]
"""The base and the checkpoint."""


def question_of(pair: Pair, options: CompareOptions) -> dict[str, Any]:
    """What a comparison answers."""
    base, checkpoint = pair
    return {"verb": "compare", "base": base.digest, "checkpoint": checkpoint.digest, "method": options.spec()}


def make(
    run: RunFolder, pair: Pair, options: CompareOptions, step: Callable[..., Any] | None = None, page: bool = True
) -> None:
    """Compare and store.

    Args:
        run: claimed for the question.
        pair: what is compared.
        options: how.
        step: told of each tensor.
        page: whether to write a page that opens by itself.
    """
    base, checkpoint = pair
    with run.running(base=base.record, checkpoint=checkpoint.record):
        compare(base, checkpoint, options, base.opening.device, Telling(run, step)).save(run.path, page)


def compare_all(base: Path, others: dict[str, Path], out: Path, told: Callable[[str, int, int], object]) -> None:
    """Compare several checkpoints with one base, each into a folder of its name, unless that was done before.

    For the app, which draws all there is; so no pages are written.

    Args:
        base: folder of the model before.
        others: name -> folder.
        out: where the runs go.
        told: called before each that is made.
    """
    before, options = Checkpoint(base), CompareOptions()
    for done, (name, folder) in enumerate(others.items()):
        pair = before, Checkpoint(folder)
        run = RunFolder.claim(out / name, question_of(pair, options))
        if not run.finished:
            told(f"comparing the weights of {name}", done, len(others))
            make(run, pair, options, page=False)
