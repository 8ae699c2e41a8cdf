"""Taking the readings of one open model: each stored the moment it is taken, and no failure takes others with it.

A reading that lies in the folder already is not taken again, so an interrupted audit goes on where it stopped, and the
base and the reference are read once for all audits that share them. A reading that cannot be taken, or that raises,
becomes a `Trouble`: the report says what happened and the level ends below it.
"""

import json
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from audits.reading_options import ReadingOptions
from audits.reading_ways import Asked, Readings
from audits.readings import BY_KEY, needed
from probes.depth_score import DepthScore
from workbench.concepts import FactSet
from workbench.errors import BadInput
from workbench.evidence import Trouble
from workbench.model import HookedModel
from workbench.store import write_json
from workbench.trace import Trace, beside

__all__ = ["Found", "ReadingOptions", "Readings", "read", "read_depth", "stored"]

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many parts are done, and of how many."""

CONSIDERED = "considered"
"""File that says which readings were asked of a model, and why some of them cannot be taken."""

DEPTH = "depth_score.forget"
"""The reading that is taken in the base, of another model's states."""


@dataclass
class Found:
    """What was read of one model."""

    traces: Readings = field(default_factory=dict)
    """Key -> trace."""
    troubles: dict[str, Trouble] = field(default_factory=dict)
    """Key -> why there is no trace."""


def asked_keys(keys: Sequence[str], role: str) -> tuple[str, ...]:
    """What is read of a role for some readings of the checkpoint; depth is read of states."""
    direct = ["states.forget" if key == DEPTH else key for key in keys]
    rows = [BY_KEY[key] for key in needed(direct)]
    return tuple(row.key for row in rows if not (row.but_base if role == "base" else row.base_only))


def read(asked: Asked, keys: Sequence[str], folder: Path, progress: Progress | None = None) -> Found:
    """Take some readings, or load those that are there.

    Args:
        asked: the open model, concept and options.
        keys: which readings.
        folder: where each trace is stored as soon as it is taken.
        progress: called before every reading.
    """
    found = Found()
    asked = replace(asked, own=found.traces)
    for done, key in enumerate(keys):
        if progress:
            progress(f"{asked.model.name}: {key}", done, len(keys))
        trace = stored(folder, key)
        if trace is None:
            trace = _taken(asked, key, folder, found)
        if trace is not None:
            found.traces[key] = trace
    lasting = {key: t.why for key, t in found.troubles.items() if t.status == "NOT_RUN"}
    taken = {key: lasting.get(key, "") for key in keys if key in found.traces or key in lasting}
    write_json(folder / CONSIDERED, {**_considered(folder), **taken})
    return found


def loaded(keys: Sequence[str], folder: Path) -> Found | None:
    """The readings when every one was taken before, or found impossible; None when a model has to be opened."""
    before = _considered(folder)
    if not set(keys) <= before.keys():
        return None
    found = Found()
    for key in keys:
        if before[key]:
            found.troubles[key] = Trouble(status="NOT_RUN", why=before[key])
        elif (trace := stored(folder, key)) is not None:
            found.traces[key] = trace
        else:
            return None
    return found


def _considered(folder: Path) -> dict[str, str]:
    try:
        found: dict[str, str] = json.loads((folder / CONSIDERED).read_text())
    except (OSError, ValueError):
        return {}
    return found


def _taken(asked: Asked, key: str, folder: Path, found: Found) -> Trace | None:
    """One reading; what stands in its way is noted and the others go on."""
    row = BY_KEY[key]
    began = time.perf_counter()
    try:
        if why := row.absent(asked):
            found.troubles[key] = Trouble(status="NOT_RUN", why=why)
            return None
        if lacking := next((found.troubles[name] for name in row.rests_on if name in found.troubles), None):
            found.troubles[key] = lacking
            return None
        trace = row.of(asked)
    except BadInput as error:
        found.troubles[key] = Trouble(status="NOT_RUN", why=str(error))
        return None
    except Exception as error:
        found.troubles[key] = Trouble(status="ERROR", why=_what_happened(error))
        return None
    return keep(folder, key, trace, time.perf_counter() - began)


def _what_happened(error: Exception) -> str:
    """Type, message and place of an error, in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"


def read_depth(
    base: HookedModel, facts: FactSet, donors: Mapping[str, tuple[Path, Trace]]
) -> Iterator[tuple[str, Trace | Trouble]]:
    """Put each donor's states into the open base model; yields role and trace, stored in the donor's folder."""
    for role, (folder, states) in donors.items():
        depth = stored(folder, DEPTH)
        if depth is None:
            try:  # the judge holds it against the reference, so the first stage's stand-in is not needed
                depth = keep(folder, DEPTH, DepthScore(first_stage="none").look(base, facts, states))
            except BadInput as error:
                yield role, Trouble(status="NOT_RUN", why=str(error))
                continue
            except Exception as error:
                yield role, Trouble(status="ERROR", why=_what_happened(error))
                continue
        yield role, depth


def stored(folder: Path, key: str) -> Trace | None:
    """A reading taken before, or None. The words are written last, so a trace without them is not there."""
    path = folder / key
    return Trace.load(path) if beside(path, ".json").is_file() else None


def keep(folder: Path, key: str, trace: Trace, seconds: float | None = None) -> Trace:
    """Store a reading, with the time it took where that is known."""
    trace.save(folder / key)
    if seconds is not None:
        with (folder / "seconds.jsonl").open("a") as stream:
            stream.write(json.dumps({"key": key, "seconds": round(seconds, 3)}) + "\n")
    return trace
