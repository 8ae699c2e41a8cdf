"""Taking the readings: every trace an audit of one model needs, each stored the moment it is taken.

One model is open at a time. A reading that lies in the folder already is not taken again, so an interrupted audit
goes on where it stopped, and the base and the reference are read once for all audits that share them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydantic import Field

from audits.attacks.prompts import FewShot, Jailbreak
from audits.attacks.quantise import Quantise
from audits.attacks.relearn import Relearn
from audits.behaviour.answers import Accuracy, AnswerProbability, BestOfN
from audits.behaviour.perplexity import Perplexity
from probes.causal_trace import CausalTrace
from probes.concept_vectors import ConceptVectors, snapshot
from probes.depth_score import DepthScore, States
from probes.expert_attribution import ExpertAttribution
from probes.linear_probes import LinearProbes
from probes.logit_lens import LogitLens
from probes.patch_back import Coefficients, PatchBack, reachable
from workbench.concepts import Concept, FactSet
from workbench.edits import Edit
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.registry import Method
from workbench.sites import Site, parse_sites
from workbench.trace import Trace, beside

Readings = dict[str, Trace]
"""Key (`instrument.on` or `instrument.on.attack`) -> trace."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many parts are done, and of how many."""


class ReadingOptions(Method):
    """What is read, and with what budget."""

    probe_seeds: int = Field(3, ge=1)
    """Trainings of the linear probes."""
    relearn: Relearn = Relearn()
    """Budget of the relearning attack."""
    quantise: Quantise = Quantise()
    """Bits of the quantisation attack."""
    few_shot: FewShot = FewShot()
    """Examples of the few-shot prompt."""
    samples: int = Field(16, ge=1)
    """Samples of best-of-n."""
    vectors: int = Field(20, ge=1)
    """Value vectors of the base that speak most for the concept, followed through the other models."""
    vector_tokens: int = Field(50, ge=1)
    """Top tokens compared for each of them."""
    trace_facts: int = Field(20, ge=0)
    """Facts that are causally traced; 0 leaves the trace out."""


@dataclass(frozen=True)
class Reader:
    """Takes the readings of one open model."""

    concept: Concept
    """What to ask about."""
    options: ReadingOptions
    """With what budget."""
    base: Readings | None = None
    """What the base read: the vectors to follow, the coefficients to patch back. None while the base itself is read."""

    def plan(self, model: HookedModel) -> dict[str, Callable[[], Trace]]:
        """Every reading this model and concept allow, in the order they are taken."""
        concept, jobs = self.concept, dict[str, Callable[[], Trace]]()
        sets = {
            "forget": concept.forget,
            "never_taught": concept.never_taught,
            "near": concept.near,
            "far": concept.far,
        }
        sets |= {kind: concept.forget.reworded(kind) for kind in ("paraphrases", "formats")}
        for name, facts in sets.items():
            if len(facts):
                jobs[f"accuracy.{name}"] = _bind(Accuracy().look, model, facts)
        for name in ("forget", "never_taught"):
            if len(sets[name]):
                jobs |= self._inside(model, name, sets[name])
        if concept.text:
            jobs["perplexity.text"] = lambda: Perplexity().look(model, concept.text)
        return jobs | self._only_forget(model) | self._attacks(model)

    def _inside(self, model: HookedModel, name: str, facts: FactSet) -> dict[str, Callable[[], Trace]]:
        """Readings that the never-taught facts get too, as the floor."""
        return {
            f"answer_probability.{name}": _bind(AnswerProbability().look, model, facts),
            f"best_of_n.{name}": _bind(BestOfN(n=self.options.samples).look, model, facts),
            f"logit_lens.{name}": _bind(LogitLens(statistic="choice").look, model, facts),
        }

    def probe_training(self) -> FactSet:
        """Facts the probes are trained on: near and retain facts about other subjects, in relations that are tested."""
        asked = {fact.relation for fact in self.concept.forget}
        subjects = set(self.concept.forget.subjects) | set(self.concept.never_taught.subjects)
        facts = tuple(
            fact
            for fact in (*self.concept.near, *self.concept.retain)
            if fact.relation in asked and fact.subject not in subjects
        )
        return FactSet(name=f"{self.concept.name}/probe_training", facts=facts)

    def _only_forget(self, model: HookedModel) -> dict[str, Callable[[], Trace]]:
        """Readings of the forget facts alone."""
        facts, options = self.concept.forget, self.options
        jobs: dict[str, Callable[[], Trace]] = {"states.forget": _bind(States().look, model, facts)}
        if len(self.probe_training()):
            jobs["linear_probes.forget"] = lambda: self._probes(model)
        if options.trace_facts:
            jobs["causal_trace.forget"] = _bind(
                CausalTrace(max_facts=options.trace_facts, samples=1, unanswered="trace").look, model, facts
            )
        if model.mixture_layers:
            jobs["expert_attribution.forget"] = _bind(ExpertAttribution().look, model, facts)
        if reachable(model):
            if self.base is None:
                jobs["coefficients.forget"] = _bind(Coefficients().look, model, facts)
            jobs["patch_back.forget"] = _unguarded(model, self._patch_back)
        return {**jobs, "concept_vectors.forget": lambda: self._snapshot(model)}

    def _probes(self, model: HookedModel) -> Trace:
        """Probes trained once, tested on the forget facts and then on the never-taught ones (from `n_facts` on)."""
        asked = {fact.relation for fact in self.probe_training()}
        never = tuple(fact for fact in self.concept.never_taught if fact.relation in asked)
        both = self.concept.forget.model_copy(update={"facts": self.concept.forget.facts + never})
        trace = LinearProbes(seeds=self.options.probe_seeds).look(model, both, train=self.probe_training())
        return replace(trace, notes={**trace.notes, "n_facts": len(self.concept.forget)})

    def _patch_back(self, model: HookedModel) -> Trace:
        """With the base's coefficients; the base gets its own, which changes nothing."""
        facts = self.concept.forget
        donor = self.base["coefficients.forget"] if self.base else Coefficients().look(model, facts)
        return PatchBack().look(model, facts, donor)

    def _snapshot(self, model: HookedModel) -> Trace:
        sites = (
            vectors_of(self.base)
            if self.base
            else tuple(
                ConceptVectors(score="effect", keep=self.options.vectors, describe=0)
                .look(model, self.concept.forget)
                .top("site", self.options.vectors)
            )
        )
        vocabulary = len(model.unembedding)  # in a small vocabulary the top 50 of any two vectors overlap by chance
        return snapshot(model, sites, k=min(self.options.vector_tokens, max(5, vocabulary // 20)))

    def _attacks(self, model: HookedModel) -> dict[str, Callable[[], Trace]]:
        """The readings that are taken with an attack on."""
        facts = self.concept.forget
        jobs: dict[str, Callable[[], Trace]] = {
            "accuracy.forget.jailbreak": lambda: self._worst(model, Jailbreak().fit(self.concept)),
            "accuracy.forget.quantise": _unguarded(model, self._quantised),
        }
        if len(self.concept.near) >= self.options.few_shot.shots:
            jobs["accuracy.forget.few_shot"] = lambda: self._worst(model, self.options.few_shot.fit(self.concept))
        if len(facts) > 1:
            jobs["relearn.forget"] = _unguarded(model, self._relearnt)
        return jobs

    def _quantised(self, model: HookedModel) -> Trace:
        return self._worst(model, [self.options.quantise.fit(model, self.concept.forget)])

    def _relearnt(self, model: HookedModel) -> Trace:
        control = self.concept.never_taught
        return self.options.relearn.look(model, self.concept.forget, control if len(control) else None)

    def _worst(self, model: HookedModel, edits: Sequence[Edit]) -> Trace:
        """Accuracy with each edit on; for every fact the one under which it comes out best."""
        traces = []
        for edit in edits:
            with edit.on(model):
                traces.append(Accuracy().look(model, self.concept.forget))
        first = traces[0]
        notes = {**first.notes, "attacks": [{**edit.made_by, **edit.words()} for edit in edits]}
        return Trace(
            "accuracy", np.max([t.values for t in traces], axis=0), first.axes, first.units, first.labels, notes
        )


def _unguarded(model: HookedModel, look: Callable[[HookedModel], Trace]) -> Callable[[], Trace]:
    """The call, made later and without the guards the model wears: who changes weights has them, and drops a guard."""

    def bare() -> Trace:
        with model.bare():
            return look(model)

    return bare


def _bind(look: Callable[[HookedModel, FactSet], Trace], model: HookedModel, facts: FactSet) -> Callable[[], Trace]:
    """The call, made later (a lambda in a loop would see the loop's last value)."""
    return lambda: look(model, facts)


def read(model: HookedModel, reader: Reader, folder: Path, progress: Progress | None = None) -> Readings:
    """Take all readings, or load those that are there.

    Args:
        model: the open model.
        reader: concept and options.
        folder: where each trace is stored as soon as it is taken.
        progress: called before every reading.
    """
    jobs = reader.plan(model)
    found: Readings = {}
    for done, (key, take) in enumerate(jobs.items()):
        if progress:
            progress(f"{model.name}: {key}", done, len(jobs))
        found[key] = stored(folder, key) or _keep(folder, key, take())
    return found


def read_depth(
    base: HookedModel, reader: Reader, donors: Mapping[str, tuple[Path, Trace]]
) -> Iterator[tuple[str, Trace]]:
    """Put each donor's states into the open base model; yields role and trace, stored in the donor's folder."""
    for role, (folder, states) in donors.items():
        key = "depth_score.forget"
        depth = stored(folder, key)
        if depth is None:  # the judge holds it against the reference, so the first stage's stand-in is not needed
            depth = _keep(folder, key, DepthScore(first_stage="none").look(base, reader.concept.forget, states))
        yield role, depth


def stored(folder: Path, key: str) -> Trace | None:
    """A reading taken before, or None. The words are written last, so a trace without them is not there."""
    path = folder / key
    return Trace.load(path) if beside(path, ".json").is_file() else None


def _keep(folder: Path, key: str, trace: Trace) -> Trace:
    trace.save(folder / key)
    return trace


def vectors_of(readings: Readings) -> tuple[Site, ...]:
    """The concept vectors that the base's readings found.

    Raises:
        BadInput: when the base was not read.
    """
    if "concept_vectors.forget" not in readings:
        raise BadInput("The base model has no concept-vector reading; read the base first")
    return parse_sites(readings["concept_vectors.forget"].labels["site"])
