"""What does a causal trace cost here, with TransformerLens one site at a time, and by the published procedure?

    python -m bench.causal_trace [--shape llama-2-7b]

The subject of a random Llama's text is swapped for others, and every state (residual stream, attention, MLP) at every
layer and token is put back, one at a time; the score is the probability of one answer token, mean over the corruptions.

    ours              `probes.trace_cells.patched`: states before the subject are the same in both texts and are not run
    TransformerLens   its `patching` functions: a forward pass a site, with a row a corruption
    ROME              as Meng et al. 2022 describe and publish it: a forward pass a site with a clean row and a row a
                      corruption, from the first layer, over all tokens, with all logits

All three are checked to give the same numbers before they are timed. Times are CPU seconds (on a GPU, wall seconds) of
the best of several interleaved rounds; peak memory is what a fresh process needs beyond the loaded model.
`--shape llama-2-7b` makes a random-weight model of that size, on the GPU if there is one, and traces fewer layers.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
import tqdm
from jaxtyping import Float
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from bench import memory
from probes.trace_cells import NOTHING, Cell, patched
from probes.trace_corruption import Case, subject_embeddings
from probes.trace_metrics import LogProbability
from workbench.demo.models import demo_tokenizer
from workbench.model import HookedModel
from workbench.sites import Site
from workbench.tokens import Encoded, pad

PARTS = {"resid_pre": "hook_resid_pre", "attn_out": "hook_attn_out", "mlp_out": "hook_mlp_out"}
"""Our name of each kind -> what TransformerLens calls it."""

SUBJECT, ANSWER = (3, 4, 5), 7
"""Tokens of the text that are the subject's, and the token whose probability is the score."""


@dataclass(frozen=True)
class Shape:
    """What is traced."""

    config: dict[str, int]
    """Size of the model."""
    layers: tuple[int, ...]
    """Layers whose states are put back."""
    length: int = 16
    """Tokens of the text."""
    samples: int = 2
    """Corrupted copies."""
    rounds: int = 2
    """How often each way is timed."""


SHAPES = {
    "small": Shape(
        {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 8},
        tuple(range(6)),
    ),
    "llama-2-7b": Shape(
        {
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "vocab_size": 32000,
        },
        tuple(range(0, 32, 4)),
    ),
}

Effects = Float[Tensor, "part layer pos"]


def subject(shape: Shape) -> HookedModel:
    """A random Llama."""
    torch.manual_seed(0)
    tokenizer = demo_tokenizer()
    config = LlamaConfig(**{"vocab_size": len(tokenizer), **shape.config}, attn_implementation="eager")
    device = "cuda" if torch.cuda.is_available() and shape is SHAPES["llama-2-7b"] else "cpu"
    with torch.device(device):
        hf = LlamaForCausalLM(config)
    return HookedModel(hf, tokenizer, name="random llama", check=False)


def texts(shape: Shape) -> tuple[list[int], list[list[int]]]:
    """A random text, and copies that differ in the subject."""
    generator = torch.Generator().manual_seed(1)
    clean, *others = torch.randint(5, 200, (shape.samples + 1, shape.length), generator=generator).tolist()
    return clean, [[other[p] if p in SUBJECT else t for p, t in enumerate(clean)] for other in others]


def trace_ours(model: HookedModel, shape: Shape) -> Effects:
    """One call for all sites."""
    clean, corrupt = texts(shape)
    broken = subject_embeddings(model, [Encoded((*ids, ANSWER), shape.length, SUBJECT) for ids in corrupt])
    measure = LogProbability(torch.tensor([ANSWER]), exponential=True)
    case = Case(0, Encoded((*clean, ANSWER), shape.length, SUBJECT), torch.stack(broken), (measure,) * len(broken))
    places = range(SUBJECT[0], shape.length)
    cells = [Cell((Site(i, part),), (p,)) for part in PARTS for i in shape.layers for p in places]
    low, *scores = patched(model, case, [NOTHING, *cells]).mean(dim=1)
    found = low.expand(len(PARTS), len(shape.layers), shape.length).clone()
    found[..., SUBJECT[0] :] = torch.stack(scores).view(len(PARTS), len(shape.layers), -1)
    return found


def trace_one_by_one(model: HookedModel, shape: Shape) -> Effects:
    """TransformerLens's `patching`."""
    from transformer_lens import patching

    patching.tqdm = partial(tqdm.tqdm, disable=True)
    assert model.lens is not None
    clean, corrupt = texts(shape)
    bridge, tokens = model.lens.bridge, torch.tensor(corrupt, device=model.device)
    _, cache = bridge.run_with_cache(torch.tensor([clean], device=model.device), names_filter=_is_patched)
    import pandas as pd

    index = pd.DataFrame([(i, p) for i in shape.layers for p in range(shape.length)], columns=["layer", "pos"])
    every = [
        patching.generic_activation_patch(
            bridge, tokens, cache, _probability, patching.layer_pos_patch_setter, kind.removeprefix("hook_"),
            index_df=index,
        )
        for kind in PARTS.values()
    ]  # fmt: skip
    return torch.stack(every).view(len(PARTS), len(shape.layers), shape.length).cpu()


def _is_patched(name: str) -> bool:
    """Names that hold what `patching` restores, under any of their aliases."""
    return name.endswith(("hook_in", "hook_out", *PARTS.values()))


def _probability(logits: Float[Tensor, "row pos vocab"]) -> Float[Tensor, ""]:
    return logits[:, -1].softmax(dim=-1)[:, ANSWER].mean()


@dataclass(frozen=True, eq=False)
class _CopyClean:
    """A hook: at one token, every row gets the value of the first."""

    position: int

    def on_output(self, _: object, __: object, output: object) -> object:
        value = output[0] if isinstance(output, tuple) else output
        assert isinstance(value, Tensor)
        value[1:, self.position] = value[:1, self.position]
        return output

    def on_input(self, _: object, args: tuple[Tensor, ...]) -> None:
        args[0][1:, self.position] = args[0][:1, self.position]


def trace_published(model: HookedModel, shape: Shape) -> Effects:
    """The published procedure: for every site a pass of a clean row and the corrupted ones."""
    clean, corrupt = texts(shape)
    inputs = pad([clean, *corrupt]).inputs(model.device)
    found = torch.empty(len(PARTS), len(shape.layers), shape.length)
    for i, part in enumerate(PARTS):
        for j, layer in enumerate(shape.layers):
            block = model.hf.model.layers[layer]
            for position in range(shape.length):
                copy = _CopyClean(position)
                if part == "resid_pre":
                    handle = block.register_forward_pre_hook(copy.on_input)
                else:
                    module = block.self_attn if part == "attn_out" else block.mlp
                    handle = module.register_forward_hook(copy.on_output)
                logits = model.hf(**inputs).logits
                handle.remove()
                found[i, j, position] = _probability(logits[1:])
    return found


WAYS: dict[str, Callable[[HookedModel, Shape], Effects]] = {
    "ours": trace_ours,
    "TransformerLens": trace_one_by_one,
    "ROME": trace_published,
}


def best_of(works: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """Seconds of each, the best of several rounds in turn."""
    best = dict.fromkeys(works, float("inf"))
    for _ in range(rounds):
        for name, work in works.items():
            start = clock()
            work()
            best[name] = min(best[name], clock() - start)
    return best


def peak_of(way: str, shape: str) -> float:
    """Megabytes that a fresh process needs for one trace, beyond the loaded model."""
    command = [sys.executable, "-m", "bench.causal_trace", "--shape", shape, "--peak", way]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1])["megabytes"])


def measure_peak(model: HookedModel, way: str, shape: Shape) -> None:
    """In a process of its own."""
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        WAYS[way](model, shape)
        print(json.dumps({"megabytes": (torch.cuda.max_memory_allocated() - before) / 2**20}))
        return
    model.run(pad([[1, 2, 3]]))
    print(json.dumps({"megabytes": memory.peak_of(lambda: WAYS[way](model, shape))}))


@torch.no_grad()
def main() -> None:
    """Check and measure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--peak", choices=WAYS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    shape = SHAPES[asked.shape]
    model = subject(shape)
    if asked.peak:
        measure_peak(model, asked.peak, shape)
    else:
        compare(model, asked.shape)


def compare(model: HookedModel, name_of_shape: str) -> None:
    """Check that all say the same, then time them."""
    shape = SHAPES[name_of_shape]
    results = {name: way(model, shape) for name, way in WAYS.items()}
    for name, result in results.items():
        spread = float(results["ROME"].max() - results["ROME"].min())
        torch.testing.assert_close(result, results["ROME"], atol=1e-3 * spread, rtol=0, msg=f"{name} disagrees")
    clock = time.process_time if model.device.type == "cpu" else time.perf_counter
    times = best_of({name: partial(way, model, shape) for name, way in WAYS.items()}, shape.rounds, clock)
    sites = results["ROME"].numel()
    print(f"{sites:,} states put back in {name_of_shape}, {model.device}")
    print(f"{shape.length} tokens, {shape.samples} corruptions, one thread")
    for name, seconds in times.items():
        ratio = f"{seconds / times['ours']:5.1f}x ours   peak +{peak_of(name, name_of_shape):7.1f} MB"
        print(f"    {name:16} {seconds:8.2f} s   {ratio}")


if __name__ == "__main__":
    main()
