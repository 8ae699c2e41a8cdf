"""THE TABLE of readings: what an audit can read of one model, under which key, and what each reading rests on.

A key is `instrument.on` or `instrument.on.attack`. A new reading is one row here, a new question one row in
`audits/claims.py` that names its key. A row says by `absent` why it cannot be taken of this model and concept; the
sentence stands in the report in place of a number.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from audits.attacks.bfloat16 import RoundToBfloat16
from audits.behaviour.answer_tokens import AnswersByToken
from audits.behaviour.fluency import NgramEntropy
from audits.behaviour.generations import Generations
from audits.behaviour.kl_to_base import NextTokens
from audits.behaviour.memorisation import ExactMemorisation, ExtractionStrength
from audits.behaviour.muse import VerbMem
from audits.behaviour.options import ChoiceAccuracy, TruthRatio
from audits.behaviour.overlap import ExactMatch, RougeL
from audits.behaviour.rwku import RwkuRecall
from audits.behaviour.tofu_losses import TofuLosses
from audits.claims import SUITES, Suite
from audits.privacy.gradient import GradientScore
from audits.privacy.scores import LossScore, MinKPlusScore, MinKScore, ZlibScore
from audits.reading_options import ReadingOptions
from audits.reading_routing import no_expert_facts, no_expert_trace, rerouted, routed
from audits.reading_vectors import RANDOM_VECTORS, moved_vectors, random_vectors, vectors
from audits.reading_ways import (
    Asked,
    Attacked,
    Look,
    Needs,
    OfWhatItSaid,
    accuracy,
    kinds_of_probes,
    kl_to_the_base,
    knowmem,
    lens,
    no_mixture,
    no_neurons,
    no_probe_training,
    no_shots,
    no_text,
    no_trace,
    of_text,
    orthogonalised,
    patched_back,
    probability,
    probes_trained_once,
    quantised,
    relearnt,
    relearnt_apart,
    relearnt_near,
    relearnt_text,
    samples,
    traced,
    words_inside,
)
from probes.depth_score import States
from probes.expert_attribution import ExpertAttribution
from probes.patch_back import Coefficients
from probes.token_routing import TokenRouting
from workbench.registry import Method
from workbench.trace import Trace


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
    but_base: bool = False
    """Whether the base is not read so, because it is what the others are held against."""

    def of(self, asked: Asked) -> Trace:
        """Take it."""
        if not self.weights:
            return self.take(asked)
        with asked.model.bare():
            return self.take(asked)


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


def _rouge(options: ReadingOptions) -> Method:
    return RougeL(max_new_tokens=options.generated)


def _always(method: Method, _: ReadingOptions) -> Method:
    return method


ROUTED = ("forget", "near", "far")
"""Sets whose routing is shown."""


def _routing(name: str) -> tuple[Reading, ...]:
    """Where a mixture sends the tokens of a set: shares by expert, and how far from the base's."""
    absent, base = no_expert_facts(name), f"routing_snapshot.{name}"
    return (
        Reading(f"expert_load.{name}", Look(lambda _: ExpertAttribution(score="frequency"), name), absent),
        Reading(base, routed(name), absent, base_only=True),
        Reading(f"expert_shift.{name}", rerouted(name), absent, rests_on=(base,)),
    )


PRIVACY_SCORES: Mapping[str, Method] = {
    "membership_loss": LossScore(),
    "membership_zlib": ZlibScore(),
    "membership_min_k": MinKScore(),
    "membership_min_k_plus": MinKPlusScore(),
    "membership_gradient": GradientScore(),
}
"""Instrument -> score, higher for what is less likely to have been trained on."""

READINGS: tuple[Reading, ...] = (
    *_with_floor("accuracy", accuracy),
    *(
        Reading(f"accuracy.{name}", Look(accuracy, name), Needs(name))
        for name in ("near", "far", "paraphrases", "formats")
    ),
    *_with_floor("answer_probability", probability),
    *_with_floor("best_of_n", samples),
    *_with_floor("logit_lens", lens),
    Reading("perplexity.text", of_text, no_text),
    Reading("states.forget", Look(lambda _: States(), "forget")),
    Reading("linear_probes.forget", probes_trained_once, no_probe_training),
    Reading("causal_trace.forget", traced, no_trace),
    Reading("expert_attribution.forget", Look(lambda _: ExpertAttribution(), "forget"), no_mixture),
    Reading("coefficients.forget", Look(lambda _: Coefficients(), "forget"), no_neurons, base_only=True),
    Reading(
        "patch_back.forget",
        patched_back,
        no_neurons,
        rests_on=("coefficients.forget", "accuracy.never_taught"),
        weights=True,
    ),
    Reading("concept_vectors.forget", vectors),
    Reading(RANDOM_VECTORS, random_vectors, rests_on=("concept_vectors.forget",)),
    Reading("moved_vectors.forget", moved_vectors, but_base=True),
    Reading("accuracy.forget.jailbreak", Attacked(lambda options: options.jailbreak)),
    Reading("accuracy.forget.quantise", quantised),
    *(Reading(f"accuracy.forget.quantise_{bits}", partial(quantised, bits=bits)) for bits in (8, 3)),
    Reading("accuracy.forget.quantise_bf16", Attacked(lambda _: RoundToBfloat16())),
    Reading("accuracy.forget.few_shot", Attacked(lambda options: options.few_shot), no_shots),
    Reading("relearn.forget", relearnt, Needs("forget", 2), weights=True),
    Reading("relearn_subjects.forget", relearnt_apart, Needs("forget", 2), weights=True),
    Reading("relearn_near.forget", relearnt_near, Needs("near"), weights=True),
    Reading("relearn_text.forget", relearnt_text, no_text, weights=True),
    Reading("in_context.forget", Attacked(lambda options: options.in_context), Needs("forget", 2)),
    Reading("accuracy.forget.rwku_prompts", Attacked(lambda options: options.rwku_prompts)),
    Reading("accuracy.forget.lens_extraction", Attacked(lambda options: options.lens_extraction)),
    Reading("accuracy.forget.prune", Attacked(lambda options: options.prune)),
    Reading("accuracy.forget.noise", Attacked(lambda options: options.noise)),
    Reading("accuracy.forget.orthogonalise", orthogonalised, rests_on=("states.forget",)),
    Reading("accuracy.forget.prune_difference", Attacked(lambda options: options.prune_difference)),
    Reading("accuracy.forget.soft_prompt", Attacked(lambda options: options.soft_prompt)),
    Reading("latent_perturbation.forget", Attacked(lambda options: options.latent_perturbation)),
    Reading("accuracy.forget.prompt_search", Attacked(lambda options: options.prompt_search)),
    Reading("choice.forget", Look(lambda _: ChoiceAccuracy(), "forget")),
    *_with_floor("generations", _generations),
    *(Reading(f"generations.{name}", Look(_generations, name), Needs(name)) for name in ("near", "far")),
    *_said("exact_match", lambda options: ExactMatch(max_new_tokens=options.generated)),
    *_said("rouge_l", _rouge),
    *(
        Reading(f"rouge_l.{name}", OfWhatItSaid(_rouge, name), Needs(name), rests_on=(f"generations.{name}",))
        for name in ("near", "far")
    ),
    Reading("tofu_losses.forget", Look(lambda _: TofuLosses(), "forget")),
    *(Reading(f"tofu_losses.{name}", Look(lambda _: TofuLosses(), name), Needs(name)) for name in ("near", "far")),
    *_with_floor("truth_ratio", lambda _: TruthRatio()),
    *_with_floor("extraction_strength", lambda _: ExtractionStrength()),
    *_with_floor("exact_memorisation", lambda _: ExactMemorisation()),
    Reading("knowmem.forget", knowmem("forget"), Needs("near")),
    Reading("knowmem.never_taught", knowmem("never_taught"), Needs("never_taught")),
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
    Reading("kl_to_base.far", kl_to_the_base, Needs("far"), rests_on=("next_tokens.far",)),
    Reading(
        "answer_tokens.forget", Look(lambda options: AnswersByToken(max_new_tokens=options.shown_tokens), "forget")
    ),
    Reading("lens_words.forget", words_inside, no_trace),
    Reading(
        "token_routing.forget",
        Look(lambda options: TokenRouting(max_facts=max(1, options.trace_facts)), "forget"),
        no_expert_trace,
    ),
    *(row for name in ROUTED for row in _routing(name)),
    Reading("probe_kinds.forget", kinds_of_probes, no_probe_training),
)
"""Every reading, in the order they are taken."""

SHOWN: Mapping[str, Suite] = {
    "answer_tokens.forget": "standard",
    "lens_words.forget": "standard",
    "accuracy.forget.quantise_bf16": "standard",
    "token_routing.forget": "standard",
    **{f"{method}.{name}": "standard" for method in ("expert_load", "expert_shift") for name in ROUTED},
    "probe_kinds.forget": "standard",
    RANDOM_VECTORS: "standard",
    "moved_vectors.forget": "standard",
}
"""Readings that no claim rests on: pages show them. Key -> the smallest suite that takes them."""

BY_KEY: Mapping[str, Reading] = {reading.key: reading for reading in READINGS}
"""Key -> row."""


def shown_in(suite: Suite) -> tuple[str, ...]:
    """What a suite reads beside its claims, to be shown."""
    return tuple(key for key, least in SHOWN.items() if SUITES.index(least) <= SUITES.index(suite))


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
