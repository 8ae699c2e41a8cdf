"""Where an intervention acts: sites on the command line, a probe that names them, or a stored reading."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.cli.reading import Reading
from workbench.errors import BadInput, did_you_mean

if TYPE_CHECKING:
    from workbench.concepts import Concept
    from workbench.model import HookedModel
    from workbench.sites import Site
    from workbench.store import RunFolder
    from workbench.trace import Trace

RANDOM = "random"
"""The localiser that knows nothing: neurons drawn evenly, the control of every localised edit."""

TOP = 10
"""Sites a localiser hands over when `--top` does not say."""

STORED = "run:"
"""What a `--where` begins with that names a stored reading."""


@dataclass(frozen=True)
class Place:
    """Where to act: sites, a stored reading, a probe that names them, or nothing."""

    words: tuple[str, ...]
    """From `--where`."""
    localiser: str | None
    """From `--localise`."""
    top: int | None
    """From `--top`."""
    seed: int
    """For the random localiser."""

    @property
    def reading(self) -> str | None:
        """The stored reading that is to say where: a run's folder or id."""
        return self.words[0].removeprefix(STORED) if self.words and self.words[0].startswith(STORED) else None

    def check(self, name: str, method: Any) -> None:
        """Refuse what does not fit together, before anything is opened.

        Raises:
            BadInput: saying what is missing or too much.
        """
        from probes import PROBES
        from workbench.sites import parse_sites

        if self.words and self.localiser:
            raise BadInput("--where and --localise both say where to act; give one of them")
        if self.reading is not None and len(self.words) > 1:
            raise BadInput(f"--where {self.words[0]} takes the sites from a reading; leave out the other --where")
        if self.top and not self.localiser and self.reading is None:
            raise BadInput(
                f"--top {self.top} says how many sites a localiser hands over; add --localise PROBE or --where run:ID"
            )
        if self.localiser and self.localiser != RANDOM and self.localiser not in PROBES:
            raise BadInput(f"No localiser called {self.localiser!r}. {did_you_mean(self.localiser, [*PROBES, RANDOM])}")
        if self.reading is None:
            parse_sites(self.words)
        else:
            self.stored()
        needed = inspect.signature(method.fit).parameters["where"].default is inspect.Parameter.empty
        if needed and not self.words and not self.localiser:
            raise BadInput(
                f"{name} must be told where to act: give --where SITE, like --where L5.mlp_act[412], or "
                "--localise PROBE --top K, like --localise concept_vectors --top 10"
            )

    def spec(self) -> Any:
        """For the question a run answers."""
        if self.reading is not None:
            return {"reading": list(map(str, self.stored().top("site", self.top or TOP)))}
        if self.localiser is None:
            return list(self.words)
        return {"localise": self.localiser, "top": self.top or TOP, "seed": self.seed}

    def find(self, model: "HookedModel", concept: "Concept", run: "RunFolder", step: Any) -> "Sequence[Site] | None":
        """The sites; None when nothing was said. What a probe read is kept in the run.

        Raises:
            BadInput: when the probe's reading names no sites.
        """
        from probes import PROBES
        from workbench.sites import parse_sites

        count = self.top or TOP
        if self.reading is not None:
            return self.stored().top("site", count)
        if self.localiser is None:
            return parse_sites(self.words) or None
        if self.localiser == RANDOM:
            return model.random_neurons(count, self.seed)
        probe = PROBES.load(self.localiser)()
        asked = Reading(self.localiser, probe, concept, "forget", None)
        trace: Trace = probe.look(model, asked.subject(), **asked.more(probe, step))
        if "site" not in trace.axes:
            raise BadInput(
                f"{self.localiser} reads along {', '.join(trace.axes)} and names no sites, so it cannot say "
                "where to act; localise with concept_vectors, causal_trace or expert_attribution"
            )
        trace.save(run.path / "traces" / "checkpoint" / f"{self.localiser}.forget")
        return trace.top("site", count)

    def stored(self) -> "Trace":
        """The stored reading.

        Raises:
            BadInput: when there is no such run, or none or several of its readings name sites.
        """
        from workbench.trace import Trace

        folder = _folder_of(str(self.reading))
        files = sorted((folder / "traces").rglob("*.json"))
        found = [t for file in files if "site" in (t := Trace.load(file.with_suffix(""))).axes]
        if len(found) != 1:
            named = ", ".join(f.stem for f in files) or "nothing"
            raise BadInput(
                f"The run {str(folder)!r} holds {len(found)} readings that name sites (it holds {named}); give a run "
                "of `workbench look` with one, or name sites"
            )
        return found[0]


def _folder_of(text: str) -> Path:
    """The run's folder: given as one, or by its id among runs/.

    Raises:
        BadInput: when there is none, or it is not finished.
    """
    from workbench.store import MANIFEST, read_manifest

    named = [Path(text)] if (Path(text) / MANIFEST).is_file() else sorted(Path("runs").glob(f"*{text}*"))
    runs = [path for path in named if (path / MANIFEST).is_file()]
    if len(runs) != 1:
        raise BadInput(
            f"--where {STORED}{text} means {len(runs) or 'no'} runs; give the folder of one, or its id under runs/ "
            "(`workbench list runs` shows them)"
        )
    if (status := read_manifest(runs[0])["status"]) != "success":
        raise BadInput(f"The run {str(runs[0])!r} is not finished ({status}); run its command again first")
    return runs[0]
