"""What does the concept-vector scan cost, next to the bare matrix product E @ V of all value vectors?

    python -m bench.concept_vectors
    python -m bench.concept_vectors --shape llama-2-7b     (random weights of that size; meant for a GPU)

The bare product multiplies every value vector with the unembedding of every token, in the chunks in which the scan does
it, and throws the result away. `look` is the whole probe: vocabulary, scores, order, tokens of the 20 best. The obvious
way to the same numbers (project, `topk` at both ends, compare) is timed too, and checked to give the same before
anything is timed. Times are CPU seconds of the best of several interleaved rounds (on a GPU seconds of the clock, with
a wait for the device); peak memory is what a fresh process needs beyond the loaded model (on a GPU what is allocated).
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from bench import memory
from probes.concept_vectors import ConceptVectors
from probes.vector_scan import ENTRIES, Against, scan, vocabulary
from workbench.concepts import Fact, FactSet
from workbench.demo.tokenizer import build_tokenizer
from workbench.model import HookedModel

ROUNDS, TERMS, K = 5, 10, 200

BARE = "bare product"


@dataclass(frozen=True)
class Shape:
    """Of a Llama."""

    width: int
    neurons: int
    layers: int
    heads: int
    vocabulary: int = 32000

    def __str__(self) -> str:
        return f"{self.layers} layers of {self.neurons} neurons, width {self.width}, vocabulary {self.vocabulary}"


SHAPES = {
    "narrow": Shape(256, 1024, 4, 4, 8000),
    "small": Shape(512, 2048, 4, 8),
    "llama-2-7b": Shape(4096, 11008, 32, 32),
}


def subject(shape: Shape) -> HookedModel:
    """A random Llama; in bfloat16 on the GPU if there is one."""
    tokenizer = build_tokenizer([f"word{i}" for i in range(shape.vocabulary)])
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.width,
        intermediate_size=shape.neurons,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    on_gpu, before = torch.cuda.is_available(), torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if on_gpu else torch.float32)
    try:
        with torch.device("cuda" if on_gpu else "cpu"):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    return HookedModel(model, tokenizer, name=f"random llama, {shape}", check=False, digest="random")


def facts() -> FactSet:
    """Some one-token answers."""
    words = [f"word{100 * i + 7}" for i in range(TERMS)]
    return FactSet(name="bench", facts=tuple(Fact(subject=w, prompt=f"the {w}", answer=w) for w in words))


def against(model: HookedModel) -> Against:
    """The vocabulary and the terms."""
    terms = sorted({encoded.answer[0] for encoded in model.encode(facts().facts)})
    return Against(model.unembedding, torch.tensor(terms), vocabulary(model))


def bare(model: HookedModel) -> None:
    """All value vectors times all tokens, a chunk at a time."""
    rows = model.unembedding[vocabulary(model)].float()
    for _, vectors in model.mlps():
        for chunk in vectors.split(ENTRIES // len(rows)):
            torch.mm(chunk.float(), rows.T)


def obvious(model: HookedModel) -> Float[Tensor, " n"]:
    """The overlap by two full top-k searches."""
    held, found = against(model), []
    for _, vectors in model.mlps():
        for chunk in vectors.split(ENTRIES // len(held.among)):
            logits = chunk.float() @ held.real.T
            ends = [logits.topk(K, largest=largest).indices for largest in (True, False)]
            counts = [torch.isin(ids, held.where).sum(dim=1) for ids in ends]
            best = torch.maximum(*counts)
            found.append((best / (K + len(held.where) - best)).cpu())
    return torch.cat(found)


def look(model: HookedModel, score: str) -> None:
    """The whole probe."""
    ConceptVectors(score=score, k=K).look(model, facts())


WAYS: dict[str, Callable[[HookedModel], object]] = {
    BARE: bare,
    "look, standardised": partial(look, score="standardised"),
    "look, average": partial(look, score="average"),
    "look, published": partial(look, score="published"),
    "look, overlap": partial(look, score="overlap"),
    "obvious overlap": obvious,
}


def clock() -> float:
    """Seconds: of this process, or with a GPU of the clock once the device is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def best_of(model: HookedModel, rounds: int) -> dict[str, float]:
    """Seconds of each way, the best of several rounds in turn."""
    best = dict.fromkeys(WAYS, float("inf"))
    for _ in range(rounds):
        for name, way in WAYS.items():
            start = clock()
            way(model)
            best[name] = min(best[name], clock() - start)
    return best


def peak_of(shape: str, way: str) -> float:
    """Megabytes that a fresh process needs for one way, beyond the loaded model."""
    command = [sys.executable, "-m", "bench.concept_vectors", "--shape", shape, "--peak", way]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1])["megabytes"])


def measure_peak(model: HookedModel, way: str) -> float:
    """In a process of its own."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        WAYS[way](model)
        return (torch.cuda.max_memory_allocated() - held) / 2**20
    torch.mm(torch.ones(8, 8), torch.ones(8, 8))  # what the library keeps for itself is no cost of a scan
    return memory.peak_of(lambda: WAYS[way](model))


@torch.no_grad()
def main() -> None:
    """Check and measure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--peak", choices=WAYS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    model = subject(SHAPES[asked.shape])
    if asked.peak:
        print(json.dumps({"megabytes": measure_peak(model, asked.peak)}))
        return
    ours = scan([rows for _, rows in model.mlps()], against(model), "overlap", K).scores
    torch.testing.assert_close(ours, obvious(model), atol=1e-6, rtol=0, msg="the obvious way disagrees")
    times = best_of(model, asked.rounds)
    print(f"{len(ours):,} value vectors: {SHAPES[asked.shape]}, {TERMS} terms, top {K}, {model.device.type}")
    for name, spent in times.items():
        ratio = spent / times[BARE]
        print(f"    {name:20} {spent:8.3f} s  {ratio:5.2f}x bare product   peak +{peak_of(asked.shape, name):6.1f} MB")


if __name__ == "__main__":
    main()
