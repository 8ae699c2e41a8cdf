"""How each reading is taken of an open model, and why it sometimes cannot be.

Functions and small callables that the rows of `audits.readings` are made of. Functions whose names begin with `no_`,
and `Needs`, give the sentence that stands in the report in place of a number; nothing when the reading can be taken.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from audits.attacks.attack import Attack
from audits.attacks.quantise import Quantise, codes_kept
from audits.behaviour.answers import Accuracy, AnswerProbability, BestOfN
from audits.behaviour.kl_to_base import KlToBase
from audits.behaviour.muse import KnowMem
from audits.behaviour.perplexity import Perplexity
from audits.reading_options import ReadingOptions
from probes.causal_trace import CausalTrace
from probes.lens_words import LensWords
from probes.linear_probes import LinearProbes
from probes.logit_lens import LogitLens
from probes.patch_back import Coefficients, PatchBack, reachable
from probes.probe_kinds import ProbeKinds
from workbench.checkpoint import Checkpoint
from workbench.concepts import Concept, FactSet
from workbench.errors import BadInput
from workbench.expert_load import NO_EXPERTS
from workbench.model import HookedModel
from workbench.registry import Method
from workbench.trace import Trace

REWORDINGS = ("paraphrases", "formats")
"""Sets that word the forget facts anew; a fact may have none or many."""

Readings = dict[str, Trace]
"""Key -> trace, of one model."""


@dataclass(frozen=True)
class Asked:
    """What a reading is taken of."""

    model: HookedModel
    """The open model."""
    concept: Concept
    """What to ask about."""
    options: ReadingOptions
    """With what budget."""
    base: Mapping[str, Trace] | None = None
    """What the base read: the vectors to follow, the coefficients to patch back. None while the base itself is read."""
    own: Mapping[str, Trace] = field(default_factory=dict)
    """What was read of this model before."""
    base_files: Checkpoint | None = None
    """The base's files, to compare stored weights with; None while the base itself is read."""

    def facts(self, name: str) -> FactSet:
        """One of the concept's sets, or the rewordings of its forget facts.

        Raises:
            KeyError: for a set no concept has.
        """
        if name in REWORDINGS:
            return self.concept.forget.reworded(name)
        found: FactSet = getattr(self.concept, name)
        return found

    def noted(self, trace: Trace, name: str) -> Trace:
        """The trace; of rewordings with the label of the forget fact that each words anew, as `rewords`."""
        if name not in REWORDINGS:
            return trace
        return replace(trace, notes={**trace.notes, "rewords": list(self.concept.forget.rewords(name))})

    @property
    def control(self) -> FactSet | None:
        """Facts nobody was taught, None when the concept has none."""
        return self.concept.never_taught if len(self.concept.never_taught) else None


MISSING_SETS = {
    "forget": "forget facts",
    "paraphrases": "paraphrases of the forget facts",
    "formats": "other formats of the forget facts",
    "near": "near facts",
    "far": "far facts",
    "never_taught": "never-taught facts",
}


def _lacks(what: str) -> str:
    return f"the concept has no {what}; add them to the concept and audit again"


@dataclass(frozen=True)
class Needs:
    """Absent when a set of the concept holds fewer than some number of facts."""

    name: str
    """Which set."""
    least: int = 1
    """How many facts are needed."""

    def __call__(self, asked: Asked) -> str:
        """The sentence, or nothing."""
        there = len(asked.facts(self.name))
        if there >= self.least:
            return ""
        what = MISSING_SETS[self.name]
        return (
            _lacks(what) if not there else f"it needs at least {self.least} {what}, the concept has {there}; add some"
        )


def no_text(asked: Asked) -> str:
    """Plain text is needed."""
    return "" if asked.concept.text else _lacks("plain text")


def no_shots(asked: Asked) -> str:
    """Near facts are needed, as many as examples are shown."""
    return Needs("near", asked.options.few_shot.shots)(asked)


def no_probe_training(asked: Asked) -> str:
    """Facts in the forgotten relations are needed, about other subjects."""
    if len(probe_training(asked.concept)):
        return ""
    return "the concept has no near or retain facts in the forgotten relations to train probes on; add some"


def no_trace(asked: Asked) -> str:
    """Facts to trace are needed."""
    return "" if asked.options.trace_facts else "reading.trace_facts is 0; set it to the number of facts to trace"


def no_mixture(asked: Asked) -> str:
    """Experts are needed."""
    return "" if asked.model.mixture_layers else NO_EXPERTS


def no_neurons(asked: Asked) -> str:
    """Neurons that can be rewritten are needed."""
    if reachable(asked.model):
        return ""
    return "the neurons of this architecture cannot be reached (`workbench doctor` says why)"


@dataclass(frozen=True)
class Look:
    """A probe or metric, looked at through one set of facts."""

    method: Callable[[ReadingOptions], Method]
    """The method, given the options."""
    name: str
    """Which set of the concept."""

    def __call__(self, asked: Asked) -> Trace:
        """Its trace."""
        trace: Trace = self.method(asked.options).look(asked.model, asked.facts(self.name))  # type: ignore[attr-defined]
        return asked.noted(trace, self.name)


@dataclass(frozen=True)
class Attacked:
    """What the model answers under an attack: the forget facts and, behind them, facts nobody was taught."""

    attack: Callable[[ReadingOptions], Attack]
    """The attack, given the options."""

    def __call__(self, asked: Asked) -> Trace:
        """Its trace."""
        return self.attack(asked.options).look(asked.model, asked.concept)


@dataclass(frozen=True)
class OfWhatItSaid:
    """A metric of generated text: each prompt is continued once, for all of them."""

    method: Callable[[ReadingOptions], Method]
    """The metric, given the options."""
    name: str
    """Which set of the concept."""

    def __call__(self, asked: Asked) -> Trace:
        """Its trace."""
        said = asked.own[f"generations.{self.name}"]
        trace: Trace = self.method(asked.options).look(asked.model, asked.facts(self.name), said=said)  # type: ignore[attr-defined]
        return trace


def probe_training(concept: Concept) -> FactSet:
    """Facts the probes are trained on: near and retain facts about other subjects, in relations that are tested."""
    asked = {fact.relation for fact in concept.forget}
    clusters = set(concept.forget.subjects) | set(concept.never_taught.subjects)
    facts = tuple(
        fact for fact in (*concept.near, *concept.retain) if fact.relation in asked and fact.cluster not in clusters
    )
    return FactSet(name=f"{concept.name}/probe_training", facts=facts)


def probes_trained_once(asked: Asked) -> Trace:
    """Probes trained once, tested on the forget facts and then on the never-taught ones (from `n_facts` on)."""
    concept, train = asked.concept, probe_training(asked.concept)
    relations = {fact.relation for fact in train}
    never = tuple(fact for fact in concept.never_taught if fact.relation in relations)
    both = concept.forget.model_copy(update={"facts": concept.forget.facts + never})
    trace = LinearProbes(seeds=asked.options.probe_seeds).look(asked.model, both, train=train)
    return replace(trace, notes={**trace.notes, "n_facts": len(concept.forget)})


def kinds_of_probes(asked: Asked) -> Trace:
    """Probes of several kinds, trained and tested as the linear ones, on the forget facts."""
    method = ProbeKinds(seeds=asked.options.shown_probe_seeds)
    return method.look(asked.model, asked.concept.forget, train=probe_training(asked.concept))


def patched_back(asked: Asked) -> Trace:
    """With the base's coefficients; the base gets its own, which changes nothing."""
    facts = asked.concept.forget
    if asked.base is not None and "coefficients.forget" not in asked.base:
        raise BadInput("the base's neuron coefficients could not be read, so there is nothing to put in")
    donor = asked.base["coefficients.forget"] if asked.base else Coefficients().look(asked.model, facts)
    return PatchBack().look(asked.model, facts, donor)


def relearnt(asked: Asked) -> Trace:
    """The curve of a short training on a few of the facts."""
    return asked.options.relearn.look(asked.model, asked.concept.forget, asked.control)


def relearnt_apart(asked: Asked) -> Trace:
    """The curve of a short training on some of the subjects, asked about the others."""
    return asked.options.relearn_subjects.look(asked.model, asked.concept.forget, asked.control)


def relearnt_near(asked: Asked) -> Trace:
    """The curve of a short training on related facts."""
    attack, near = asked.options.relearn_near, asked.concept.near
    return attack.look(asked.model, asked.concept.forget, asked.control, given=near)


def relearnt_text(asked: Asked) -> Trace:
    """The curve of a short training on plain text."""
    attack, text = asked.options.relearn_text, asked.concept.text
    return attack.look(asked.model, asked.concept.forget, asked.control, given=text)


def quantised(asked: Asked, bits: int | None = None) -> Trace:
    """Answers of the rounded weights; the notes say how many of them are stored as the base's are.

    Args:
        asked: the model, concept and options.
        bits: other than the options', for the ladder.
    """
    attack = asked.options.quantise if bits is None else Quantise(bits=bits)
    trace = attack.look(asked.model, asked.concept)
    if asked.base_files is None:
        return trace
    try:
        with asked.model.bare():
            told: dict[str, object] = {"codes_kept": codes_kept(asked.model, asked.base_files, attack.bits)}
    except BadInput as error:
        told = {"codes_not_compared": str(error)}
    return replace(trace, notes={**trace.notes, **told})


def traced(asked: Asked) -> Trace:
    """A causal trace of some of the facts."""
    method = CausalTrace(max_facts=asked.options.trace_facts, samples=1, unanswered="trace")
    return method.look(asked.model, asked.concept.forget)


def knowmem(name: str) -> Callable[[Asked], Trace]:
    """MUSE's questions after answered examples, which near facts serve as."""
    return lambda asked: KnowMem().look(asked.model, asked.facts(name), near=asked.concept.near)


def kl_to_the_base(asked: Asked) -> Trace:
    """To the base; of the base itself, to its own stored distribution."""
    readings = asked.own if asked.base is None else asked.base
    if "next_tokens.far" not in readings:
        raise BadInput("the base's next-token probabilities could not be read, so there is nothing to compare with")
    return KlToBase().look(asked.model, asked.concept.far, readings["next_tokens.far"])


def of_text(asked: Asked) -> Trace:
    """Loss on the concept's plain text."""
    return Perplexity().look(asked.model, asked.concept.text)


def accuracy(_: ReadingOptions) -> Method:
    """Greedy answers."""
    return Accuracy()


def probability(_: ReadingOptions) -> Method:
    """Probability of the answers."""
    return AnswerProbability()


def samples(options: ReadingOptions) -> Method:
    """The answer among n samples."""
    return BestOfN(n=options.samples)


def lens(_: ReadingOptions) -> Method:
    """The answer among its candidates, layer by layer."""
    return LogitLens(statistic="choice")


def words_inside(asked: Asked) -> Trace:
    """Words in the layers over some of the facts; of other models also how far they are from the base's."""
    base = (asked.base or {}).get("lens_words.forget")
    return LensWords(max_facts=asked.options.trace_facts).look(asked.model, asked.concept.forget, base=base)


def orthogonalised(asked: Asked) -> Trace:
    """Along the direction that leads from the base's states to this model's; the base gets its own."""
    states = (asked.own if asked.base is None else asked.base).get("states.forget")
    if states is None:
        raise BadInput("the base's states could not be read, so there is no direction to project out")
    return asked.options.orthogonalise.look(asked.model, asked.concept, base=states)
