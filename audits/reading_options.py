"""What an audit reads, and with what budget: every option, and the attacks with theirs.

Read it as: `--set reading.relearn.steps=[0,10]`; all of it stands in the report.
"""

from pydantic import Field

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
from workbench.registry import Method


class ReadingOptions(Method):
    """What is read, and with what budget."""

    probe_seeds: int = Field(3, ge=1)
    """Trainings of the linear probes."""
    shown: bool = True
    """Also take what no claim rests on and only the app's pages show: tokens and words, probes of other kinds, random
    and moved vectors, routing, rounding to bfloat16. Without them an audit is a tenth to a fifth quicker."""
    shown_probe_seeds: int = Field(1, ge=1)
    """Trainings of the probes of every kind that pages show beside them."""
    relearn: Relearn = Relearn()
    """Budget of the relearning attack."""
    relearn_subjects: Relearn = Relearn(share=0.5, split="subject")
    """The same with half of the subjects, asked about the others (RTT)."""
    relearn_near: Relearn = Relearn(on="near", lr=1e-3)
    """Training on related facts; a higher rate, because what a model knows already pulls little."""
    relearn_text: Relearn = Relearn(on="text", lr=1e-3)
    """Training on plain text."""
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
    random_vectors: int = Field(5, ge=1)
    """Random vectors of the same MLP shown beside each of them; at most all others. No claim rests on these."""
    trace_facts: int = Field(20, ge=0)
    """Facts that are causally traced; 0 leaves the trace out."""
    shift_facts: int = Field(100, ge=1)
    """Facts of a set, spread over it, whose routing is compared with the base's (which is stored token by token)."""
    shown_tokens: int = Field(16, ge=1)
    """Tokens the model says after each forget prompt, to be shown token by token."""
    generated: int = Field(32, ge=1)
    """Tokens generated greedily after a prompt, for the metrics that read what is said."""
    likeliest: int = Field(100, ge=1)
    """Tokens of the base's next-token distribution that the KL divergence is over; the rest counts as one."""
