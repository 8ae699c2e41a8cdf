"""What does expert attribution cost, next to one plain forward pass over the same tokens?

    python -m bench.expert_attribution
    python -m bench.expert_attribution --layers 8 --width 512 --experts 16 --facts 256

A random OLMoE reads facts of 16 words; the plain pass is the Hugging Face model on the same batches, with nothing
hooked and no logits but the last. Scores that need the answer (knock-out, gradient) do more than one pass by nature;
what is promised is affinity within 1.3 times of the plain pass. Times are CPU seconds of the best of several
interleaved rounds, so that a busy machine hurts all alike; peak memory is what a fresh process needs beyond the loaded
model.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from transformers import OlmoeConfig, OlmoeForCausalLM

from bench.hooks import _status, best_of
from probes.expert_attribution import ExpertAttribution
from workbench.concepts import Fact, FactSet
from workbench.demo.models import demo_tokenizer
from workbench.model import HookedModel
from workbench.scoring import chunks

SCORES = ("affinity", "frequency", "contribution", "gradient", "knockout")
PLAIN = "plain forward"
ROUNDS = 5


def subject(shape: argparse.Namespace) -> HookedModel:
    """A random mixture of experts."""
    torch.manual_seed(0)
    tokenizer = demo_tokenizer()
    config = OlmoeConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.width,
        intermediate_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=8,
        num_key_value_heads=8,
        num_experts=shape.experts,
        num_experts_per_tok=shape.chosen,
        attn_implementation="eager",
    )
    return HookedModel(OlmoeForCausalLM(config), tokenizer, name="random olmoe", check=False)


def facts_of(model: HookedModel, count: int) -> FactSet:
    """Facts of 16 words of the demo's vocabulary each."""
    words = [word for word in model.tokenizer.get_vocab() if word.isalpha() and word.islower()]
    generator = torch.Generator().manual_seed(1)
    rows = torch.randint(0, len(words), (count, 16), generator=generator).tolist()
    texts = [[words[i] for i in row] for row in rows]
    made = [Fact(subject=text[0], prompt=" ".join(text[:-1]), answer=text[-1]) for text in texts]
    return FactSet(name="random words", facts=tuple(made))


@torch.no_grad()
def plain(model: HookedModel, facts: FactSet) -> None:
    """The Hugging Face model on the same batches."""
    for batch, _ in chunks(model.encode(facts.facts)):
        model.hf(**batch.inputs(model.device), use_cache=False, logits_to_keep=1)


def ways(model: HookedModel, facts: FactSet) -> dict[str, Callable[[], object]]:
    """Everything that is timed."""
    found: dict[str, Callable[[], object]] = {PLAIN: partial(plain, model, facts)}
    for score in SCORES:
        found[score] = partial(ExpertAttribution(score=score).look, model, facts)
    return found


def measure_peak(shape: argparse.Namespace) -> None:
    """In a process of its own: warm up on a few facts, then read everything."""
    model = subject(shape)
    facts = facts_of(model, shape.facts)
    ways(model, facts.take([0, 1], "two"))[shape.peak]()
    Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak that importing has left
    before = _status("VmRSS")
    ways(model, facts)[shape.peak]()
    print(json.dumps({"megabytes": _status("VmHWM") - before}))


def peak_of(name: str, given: list[str]) -> float:
    """Megabytes that a fresh process needs for one reading, beyond the loaded model."""
    command = [sys.executable, "-m", "bench.expert_attribution", *given, "--peak", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1])["megabytes"])


def main() -> None:
    """Measure."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("layers", 4), ("width", 256), ("experts", 8), ("chosen", 2), ("facts", 128)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    shape = parser.parse_args()
    if shape.peak:
        measure_peak(shape)
        return
    model = subject(shape)
    facts = facts_of(model, shape.facts)
    tokens = sum(len(e.ids) for e in model.encode(facts.facts))
    spent = best_of(ways(model, facts), ROUNDS)
    parts = (
        f"{shape.layers} layers, width {shape.width}, {shape.experts} experts ({shape.chosen} chosen)",
        "one thread",
    )
    print(f"{', '.join(parts)}; {shape.facts} facts, {tokens:,} tokens")
    for name, seconds in spent.items():
        peak = peak_of(name, sys.argv[1:])
        print(f"    {name:14} {seconds * 1e3:9.1f} ms  {seconds / spent[PLAIN]:7.2f}x plain   peak +{peak:7.1f} MB")


if __name__ == "__main__":
    main()
