"""Where a training stands, for the few losses that change as it goes on (l1-sparse, PDU), resumed trainings included.

A loss is a function of the weights, a batch and this: the number of updates made, and one number that the loss told of
each (PDU: its retain loss). What was told is written next to what training keeps, after each update and before that,
so a training that goes on from update k finds the k numbers it needs.
Cannot do: several processes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from workbench.errors import BadInput
from workbench.store import write_json
from workbench.training_file import read_tree

Progress = Callable[[int, float], None]
"""Called with the step (from 1) and its loss."""


@dataclass(eq=False)
class Course:
    """The updates made so far."""

    steps: int
    """Updates of the whole training."""
    per_round: int
    """Updates in which every item is used once."""
    parts: int = 1
    """Passes an update."""
    file: Path | None = None
    """Where what was told is kept; None for nowhere."""
    progress: Progress | None = None
    """Whoever else wants to know."""
    done: int = 0
    """Updates made."""
    told: list[float] = field(default_factory=list)
    """One number for each update made, if the loss tells one."""
    _now: list[float] = field(default_factory=list)

    @property
    def history(self) -> list[float]:
        """What was told of every update made.

        Raises:
            BadInput: when a resumed training lacks it.
        """
        if len(self.told) != self.done:
            raise BadInput(
                f"The training went on from update {self.done}, but {str(self.file)!r} tells of {len(self.told)}: "
                "remove its folder to begin anew"
            )
        return self.told

    def tell(self, value: float) -> None:
        """Say a number of the present pass; an update of several passes remembers their mean."""
        self._now.append(value)

    def __call__(self, step: int, loss: float) -> None:
        """An update was made."""
        self.done = step
        if self._now:
            parts = self._now[: self.parts]  # Sophia passes once more, over the same items
            self.told = [*self.told[: step - 1], sum(parts) / len(parts)]
            self._now.clear()
            if self.file is not None:
                write_json(self.file, self.told)
        if self.progress is not None:
            self.progress(step, loss)


def taken_up(course: Course, keep: Path | None) -> Course:
    """The course as far as training was kept in a folder.

    Raises:
        BadInput: when a file there is damaged.
    """
    kept = None if keep is None else keep / "training.safetensors"
    if kept is None or not kept.is_file():
        return course
    state = read_tree(kept)
    course.done = int(state["step"]) if isinstance(state, dict) and "step" in state else 0
    if course.file is not None and course.file.is_file():
        course.told = _numbers(course.file)[: course.done]
    return course


def _numbers(file: Path) -> list[float]:
    import json

    try:
        return [float(value) for value in json.loads(file.read_text())]
    except (OSError, ValueError, TypeError):
        raise BadInput(f"The file {str(file)!r} is damaged: remove its folder to begin anew") from None
