"""THE TABLE of readings: what an audit can read of one model, under which key, and what each reading rests on.

A key is `instrument.on` or `instrument.on.attack`. A new reading is one row here, a new question one row in
`audits/claims.py` that names its key. A row says by `absent` why it cannot be taken of this model and concept; the
sentence stands in the report in place of a number.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from pydantic import Field

from audits.attacks.attack import Attack
from audits.attacks.in_context import InContext
from audits.attacks.latent_perturbation import LatentPerturbation
from audits.attacks.lens_extraction import LensExtraction
from audits.attacks.noise import Noise
from audits.attacks.orthogonalise import Orthogonalise
from audits.attacks.prompt_search import PromptSearch
from audits.attacks.prompts import FewShot, Jailbreak
from audits.attacks.prune import Prune
from audits.attacks.prune_difference import PruneDifference
from audits.attacks.quantise import Quantise
from audits.attacks.relearn import Relearn
from audits.attacks.rwku_prompts import RwkuPrompts
from audits.attacks.soft_prompt import SoftPrompt
from audits.behaviour.answers import Accuracy, AnswerProbability, BestOfN
from audits.behaviour.fluency import NgramEntropy
from audits.behaviour.generations import Generations
from audits.behaviour.kl_to_base import KlToBase, NextTokens
from audits.behaviour.memorisation import ExactMemorisation, ExtractionStrength
from audits.behaviour.muse import KnowMem, VerbMem
from audits.behaviour.options import ChoiceAccuracy, TruthRatio
from audits.behaviour.overlap import ExactMatch, RougeL
from audits.behaviour.perplexity import Perplexity
from audits.behaviour.rwku import RwkuRecall
from audits.privacy.gradient import GradientScore
from audits.privacy.scores import LossScore, MinKPlusScore, MinKScore, ZlibScore
from probes.causal_trace import CausalTrace
from probes.concept_vectors import ConceptVectors, snapshot
from probes.depth_score import States
from probes.expert_attribution import ExpertAttribution
from probes.linear_probes import LinearProbes
from probes.logit_lens import LogitLens
from probes.patch_back import Coefficients, PatchBack, reachable
from workbench.concepts import Concept, FactSet
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.registry import Method
from workbench.sites import Site, parse_sites
from workbench.trace import Trace

Readings = dict[str, Trace]
"""Key -> trace, of one model."""


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
    jailbreak: Jailbreak = Jailbreak()
    """Templates that press for an answer."""
    in_context: InContext = InContext(shots=(0, 1))
    """How many other forgotten facts stand, answered, before the question; more than one confuses small models."""
    rwku_prompts: RwkuPrompts = RwkuPrompts()
    """RWKU's kinds of prompt."""
    lens_extraction: LensExtraction = LensExtraction()
    """Length of the lists read off the layers."""
    prune: Prune = Prune()
    """Share of the weights zeroed."""
    noise: Noise = Noise()
    """Size of the noise put on the weights."""
    orthogonalise: Orthogonalise = Orthogonalise()
    """The direction that is projected out."""
    prune_difference: PruneDifference = PruneDifference()
    """Neurons that speak against the answers, cut."""
    soft_prompt: SoftPrompt = SoftPrompt()
    """Free vectors trained before the question."""
    latent_perturbation: LatentPerturbation = LatentPerturbation()
    """One vector trained to be added inside."""
    prompt_search: PromptSearch = PromptSearch()
    """Words found by search."""
    samples: int = Field(16, ge=1)
    """Samples of best-of-n."""
    vectors: int = Field(20, ge=1)
    """Value vectors of the base that speak most for the concept, followed through the other models."""
    vector_tokens: int = Field(50, ge=1)
    """Top tokens compared for each of them."""
    trace_facts: int = Field(20, ge=0)
    """Facts that are causally traced; 0 leaves the trace out."""
    generated: int = Field(32, ge=1)
    """Tokens generated greedily after a prompt, for the metrics that read what is said."""
    likeliest: int = Field(100, ge=1)
    """Tokens of the base's next-token distribution that the KL divergence is over; the rest counts as one."""


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

    def facts(self, name: str) -> FactSet:
        """One of the concept's sets, or the rewordings of its forget facts.

        Raises:
            KeyError: for a set no concept has.
        """
        if name in ("paraphrases", "formats"):
            return self.concept.forget.reworded(name)
        found: FactSet = getattr(self.concept, name)
        return found

    @property
    def control(self) -> FactSet | None:
        """Facts nobody was taught, None when the concept has none."""
        return self.concept.never_taught if len(self.concept.never_taught) else None


def _never(_: Asked) -> str:
    return ""


@dataclass(frozen=True)
class Reading:
    """One row."""

    key: str
    """`instrument.on` or `instrument.on.attack`."""
    take: Callable[[Asked], Trace]
    """How it is taken of an open model."""
    absent: Callable[[Asked], str] = field(default=_never)
    """Why it cannot be taken, as a sentence that says what to do; empty when it can."""
    rests_on: tuple[str, ...] = ()
    """Other readings that it, or its judgement, needs."""
    weights: bool = False
    """Whether it changes weights on the way: who does that has them, and drops a guard."""
    base_only: bool = False
    """Whether only the base is read so."""

    def of(self, asked: Asked) -> Trace:
        """Take it."""
        if not self.weights:
            return self.take(asked)
        with asked.model.bare():
            return self.take(asked)


# ---- what can be lacking

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


def _no_text(asked: Asked) -> str:
    return "" if asked.concept.text else _lacks("plain text")


def _no_shots(asked: Asked) -> str:
    return Needs("near", asked.options.few_shot.shots)(asked)


def _no_probe_training(asked: Asked) -> str:
    if len(probe_training(asked.concept)):
        return ""
    return "the concept has no near or retain facts in the forgotten relations to train probes on; add some"


def _no_trace(asked: Asked) -> str:
    return "" if asked.options.trace_facts else "reading.trace_facts is 0; set it to the number of facts to trace"


def _no_mixture(asked: Asked) -> str:
    return "" if asked.model.mixture_layers else "the model is no mixture of experts"


def _no_neurons(asked: Asked) -> str:
    if reachable(asked.model):
        return ""
    return "the neurons of this architecture cannot be reached (`workbench doctor` says why)"


# ---- how they are taken


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
        return trace


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


def _probes(asked: Asked) -> Trace:
    """Probes trained once, tested on the forget facts and then on the never-taught ones (from `n_facts` on)."""
    concept, train = asked.concept, probe_training(asked.concept)
    relations = {fact.relation for fact in train}
    never = tuple(fact for fact in concept.never_taught if fact.relation in relations)
    both = concept.forget.model_copy(update={"facts": concept.forget.facts + never})
    trace = LinearProbes(seeds=asked.options.probe_seeds).look(asked.model, both, train=train)
    return replace(trace, notes={**trace.notes, "n_facts": len(concept.forget)})


def _patch_back(asked: Asked) -> Trace:
    """With the base's coefficients; the base gets its own, which changes nothing."""
    facts = asked.concept.forget
    if asked.base is not None and "coefficients.forget" not in asked.base:
        raise BadInput("the base's neuron coefficients could not be read, so there is nothing to put in")
    donor = asked.base["coefficients.forget"] if asked.base else Coefficients().look(asked.model, facts)
    return PatchBack().look(asked.model, facts, donor)


def _vectors(asked: Asked) -> Trace:
    options = asked.options
    found = ConceptVectors(score="effect", keep=options.vectors, describe=0)
    sites = (
        vectors_of(asked.base)
        if asked.base
        else tuple(found.look(asked.model, asked.concept.forget).top("site", options.vectors))
    )
    vocabulary = len(asked.model.unembedding)  # in a small vocabulary the top 50 of any two vectors overlap by chance
    return snapshot(asked.model, sites, k=min(options.vector_tokens, max(5, vocabulary // 20)))


def vectors_of(readings: Mapping[str, Trace]) -> tuple[Site, ...]:
    """The concept vectors that the base's readings found.

    Raises:
        BadInput: when the base was not read.
    """
    if "concept_vectors.forget" not in readings:
        raise BadInput("The base model has no concept-vector reading; read the base first")
    return parse_sites(readings["concept_vectors.forget"].labels["site"])


def _relearnt(asked: Asked) -> Trace:
    return asked.options.relearn.look(asked.model, asked.concept.forget, asked.control)


def _trace(asked: Asked) -> Trace:
    method = CausalTrace(max_facts=asked.options.trace_facts, samples=1, unanswered="trace")
    return method.look(asked.model, asked.concept.forget)


def _knowmem(name: str) -> Callable[[Asked], Trace]:
    return lambda asked: KnowMem().look(asked.model, asked.facts(name), near=asked.concept.near)


def _kl(asked: Asked) -> Trace:
    """To the base; of the base itself, to its own stored distribution."""
    readings = asked.own if asked.base is None else asked.base
    if "next_tokens.far" not in readings:
        raise BadInput("the base's next-token probabilities could not be read, so there is nothing to compare with")
    return KlToBase().look(asked.model, asked.concept.far, readings["next_tokens.far"])


def _text(asked: Asked) -> Trace:
    return Perplexity().look(asked.model, asked.concept.text)


def _accuracy(_: ReadingOptions) -> Method:
    return Accuracy()


def _probability(_: ReadingOptions) -> Method:
    return AnswerProbability()


def _samples(options: ReadingOptions) -> Method:
    return BestOfN(n=options.samples)


def _lens(_: ReadingOptions) -> Method:
    return LogitLens(statistic="choice")


def _orthogonalised(asked: Asked) -> Trace:
    """Along the direction that leads from the base's states to this model's; the base gets its own."""
    states = (asked.own if asked.base is None else asked.base).get("states.forget")
    if states is None:
        raise BadInput("the base's states could not be read, so there is no direction to project out")
    return asked.options.orthogonalise.look(asked.model, asked.concept, base=states)


def _with_floor(method: str, how: Callable[[ReadingOptions], Method]) -> tuple[Reading, Reading]:
    """A reading of the forget facts and, as its floor, of the never-taught ones."""
    floor = f"{method}.never_taught"
    return (
        Reading(f"{method}.forget", Look(how, "forget")),
        Reading(floor, Look(how, "never_taught"), Needs("never_taught")),
    )


def _said(method: str, how: Callable[[ReadingOptions], Method]) -> tuple[Reading, Reading]:
    """A metric of generated text, with its floor."""
    return (
        Reading(f"{method}.forget", OfWhatItSaid(how, "forget"), rests_on=("generations.forget",)),
        Reading(
            f"{method}.never_taught",
            OfWhatItSaid(how, "never_taught"),
            Needs("never_taught"),
            rests_on=("generations.never_taught",),
        ),
    )


def _generations(options: ReadingOptions) -> Method:
    return Generations(max_new_tokens=options.generated)


def _always(method: Method, _: ReadingOptions) -> Method:
    return method


PRIVACY_SCORES: Mapping[str, Method] = {
    "membership_loss": LossScore(),
    "membership_zlib": ZlibScore(),
    "membership_min_k": MinKScore(),
    "membership_min_k_plus": MinKPlusScore(),
    "membership_gradient": GradientScore(),
}
"""Instrument -> score, higher for what is less likely to have been trained on."""

READINGS: tuple[Reading, ...] = (
    *_with_floor("accuracy", _accuracy),
    *(
        Reading(f"accuracy.{name}", Look(_accuracy, name), Needs(name))
        for name in ("near", "far", "paraphrases", "formats")
    ),
    *_with_floor("answer_probability", _probability),
    *_with_floor("best_of_n", _samples),
    *_with_floor("logit_lens", _lens),
    Reading("perplexity.text", _text, _no_text),
    Reading("states.forget", Look(lambda _: States(), "forget")),
    Reading("linear_probes.forget", _probes, _no_probe_training),
    Reading("causal_trace.forget", _trace, _no_trace),
    Reading("expert_attribution.forget", Look(lambda _: ExpertAttribution(), "forget"), _no_mixture),
    Reading("coefficients.forget", Look(lambda _: Coefficients(), "forget"), _no_neurons, base_only=True),
    Reading(
        "patch_back.forget",
        _patch_back,
        _no_neurons,
        rests_on=("coefficients.forget", "accuracy.never_taught"),
        weights=True,
    ),
    Reading("concept_vectors.forget", _vectors),
    Reading("accuracy.forget.jailbreak", Attacked(lambda options: options.jailbreak)),
    Reading("accuracy.forget.quantise", Attacked(lambda options: options.quantise)),
    Reading("accuracy.forget.few_shot", Attacked(lambda options: options.few_shot), _no_shots),
    Reading("relearn.forget", _relearnt, Needs("forget", 2), weights=True),
    Reading("in_context.forget", Attacked(lambda options: options.in_context), Needs("forget", 2)),
    Reading("accuracy.forget.rwku_prompts", Attacked(lambda options: options.rwku_prompts)),
    Reading("accuracy.forget.lens_extraction", Attacked(lambda options: options.lens_extraction)),
    Reading("accuracy.forget.prune", Attacked(lambda options: options.prune)),
    Reading("accuracy.forget.noise", Attacked(lambda options: options.noise)),
    Reading("accuracy.forget.orthogonalise", _orthogonalised, rests_on=("states.forget",)),
    Reading("accuracy.forget.prune_difference", Attacked(lambda options: options.prune_difference)),
    Reading("accuracy.forget.soft_prompt", Attacked(lambda options: options.soft_prompt)),
    Reading("latent_perturbation.forget", Attacked(lambda options: options.latent_perturbation)),
    Reading("accuracy.forget.prompt_search", Attacked(lambda options: options.prompt_search)),
    Reading("choice.forget", Look(lambda _: ChoiceAccuracy(), "forget")),
    *_with_floor("generations", _generations),
    Reading("generations.far", Look(_generations, "far"), Needs("far")),
    *_said("exact_match", lambda options: ExactMatch(max_new_tokens=options.generated)),
    *_said("rouge_l", lambda options: RougeL(max_new_tokens=options.generated)),
    *_with_floor("truth_ratio", lambda _: TruthRatio()),
    *_with_floor("extraction_strength", lambda _: ExtractionStrength()),
    *_with_floor("exact_memorisation", lambda _: ExactMemorisation()),
    Reading("knowmem.forget", _knowmem("forget"), Needs("near")),
    Reading("knowmem.never_taught", _knowmem("never_taught"), Needs("never_taught")),
    *_with_floor("verbmem", lambda _: VerbMem()),
    Reading("rwku_recall.formats", Look(lambda _: RwkuRecall(), "formats"), Needs("formats")),
    Reading("rwku_recall.never_taught", Look(lambda _: RwkuRecall(), "never_taught"), Needs("never_taught")),
    *(row for name, score in PRIVACY_SCORES.items() for row in _with_floor(name, partial(_always, score))),
    Reading(
        "ngram_entropy.far",
        OfWhatItSaid(lambda options: NgramEntropy(max_new_tokens=options.generated), "far"),
        Needs("far"),
        rests_on=("generations.far",),
    ),
    Reading(
        "next_tokens.far",
        Look(lambda options: NextTokens(likeliest=options.likeliest), "far"),
        Needs("far"),
        base_only=True,
    ),
    Reading("kl_to_base.far", _kl, Needs("far"), rests_on=("next_tokens.far",)),
)
"""Every reading, in the order they are taken."""

BY_KEY: Mapping[str, Reading] = {reading.key: reading for reading in READINGS}
"""Key -> row."""


def needed(keys: Sequence[str]) -> tuple[str, ...]:
    """These readings, their floors and all they rest on, in the table's order.

    Raises:
        KeyError: for a key that no row has.
    """
    found: set[str] = set()
    waiting = list(keys)
    while waiting:
        key = waiting.pop()
        if key not in found:
            found.add(key)
            floor = f"{key.partition('.')[0]}.never_taught"
            waiting += [*BY_KEY[key].rests_on, *([floor] if floor in BY_KEY else [])]
    return tuple(reading.key for reading in READINGS if reading.key in found)
