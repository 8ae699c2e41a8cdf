"""A model read over the wire says what the same model says here; the wire is nnsight's own, rehearsed or real."""

import importlib.util
import io
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from tests.zoo import ARCHITECTURES, save
from workbench.checkpoint import Checkpoint
from workbench.errors import BadInput, RunError
from workbench.hooks import READ_ONLY, Rewrite, put
from workbench.model import HookedModel
from workbench.model_remote_place import Deployment, RemoteCheckpoint, nnsight_quietly
from workbench.model_run import Start
from workbench.opening import Opening
from workbench.patching import Patch, patch_each
from workbench.sites import Site
from workbench.tokens import pad

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("nnsight") is None, reason="nnsight is in the optional extra [inside]"
)

QUICK = ("gpt2", "gemma2", "phi", "olmoe", "qwen2_moe", "deepseek_v3", "gpt_oss", "granitemoe")
"""Fused attention, norms behind, parallel blocks, experts, a shared expert before and after them, biases, scales."""

BATCH = pad([[0, 5, 9, 17, 33], [0, 8, 3]])
HERE = Deployment("local")


class Pair(NamedTuple):
    """One checkpoint, opened here and over the wire."""

    here: HookedModel
    there: Any
    folder: Path


def opened(folder: Path, deployment: Deployment = HERE) -> Pair:
    return Pair(Checkpoint(folder).open(), RemoteCheckpoint(str(folder), deployment=deployment).open(), folder)


@pytest.fixture(
    scope="module", params=[pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in ARCHITECTURES]
)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return opened(save(request.param, tmp_path_factory.mktemp("remote") / request.param))


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return opened(save("olmoe", tmp_path_factory.mktemp("remote") / "olmoe"))


@pytest.fixture(scope="module")
def dense(planted_folder: Path) -> Pair:
    return opened(planted_folder)


def every_site(model: HookedModel) -> list[Site]:
    experts = [(layer, e) for layer, m in model.anatomy.mixtures.items() for e in range(m.n_experts)]
    boundaries = [site for site, tap in model.taps.items() if tap.entries is None]
    return [*boundaries, *(Site(layer, "mlp_act", None, e) for layer, e in experts)]


def some_rewrites(model: HookedModel) -> dict[Site, Rewrite]:
    """Every kind that can be sent: at rows and positions, of whole sites and of parts, by data and by zeros."""
    wide = torch.randn(2, model.d_model, generator=torch.Generator().manual_seed(0))
    both, places, numbers = torch.tensor([0, 1]), torch.tensor([1, 2]), torch.tensor([3.0, -4.0])
    expert = 1 if 1 in model.anatomy.mixtures else None
    return {
        Site(2, "mlp_out"): put(both[:1], places[:1], wide[:1]),  # later layers first: the order is not the caller's
        Site(None, "embed"): put(both, places, wide),
        Site(1, "attn_out"): torch.zeros_like,
        Site(1, "resid_post"): put(both[1:], places[:1], wide[1:]),
        Site(1, "mlp_act", 3, expert): put(both, places, numbers),
        Site(1, "mlp_act", 5, expert): torch.zeros_like,
        Site(0, "head", 2): torch.zeros_like,
        **({Site(1, "mlp_act", None, 2): torch.zeros_like} if expert else {}),
    }


def assert_same(here: Any, there: Any) -> None:
    assert list(here.acts) == list(there.acts)
    for site, value in here.acts.items():
        torch.testing.assert_close(there.acts[site], value, atol=1e-6, rtol=0, msg=str(site))
    torch.testing.assert_close(there.logits, here.logits, atol=1e-6, rtol=0)


@torch.no_grad()
def test_every_site_and_the_logits_are_the_same(pair: Pair) -> None:
    sites = every_site(pair.here)[::-1]
    assert_same(pair.here.run(BATCH, read=sites), pair.there.run(BATCH, read=sites))


def test_what_enters_the_activation_of_an_expert_is_refused(mixture: Pair) -> None:
    with pytest.raises(BadInput, match=r"L1\.e2\.mlp_pre has no module boundary.*open the model here"):
        mixture.there.run(BATCH, read=[Site(1, "mlp_pre", None, 2)])


@torch.no_grad()
def test_rewrites_do_the_same(pair: Pair) -> None:
    sites, rewrite = every_site(pair.here), some_rewrites(pair.here)
    here = pair.here.run(BATCH, read=sites, rewrite=rewrite)
    assert_same(here, pair.there.run(BATCH, read=sites, rewrite=rewrite))
    plain = pair.here.run(BATCH, read=sites)
    assert all((here.acts[s.whole] - plain.acts[s.whole]).abs().max() > 1e-4 for s in rewrite)


@torch.no_grad()
def test_indexed_sites_and_kept_positions_are_the_same(pair: Pair) -> None:
    expert = 1 if 1 in pair.here.anatomy.mixtures else None
    sites = [Site(1, "mlp_act", 7, expert), Site(0, "head", 3)]
    for kept in (False, 1, torch.tensor([0, 3])):
        here, there = (model.run(BATCH, read=sites, logits=kept) for model in (pair.here, pair.there))
        assert all(torch.equal(here.acts[site], there.acts[site]) for site in sites)
        assert there.logits is None if kept is False else torch.equal(here.logits, there.logits)


@torch.no_grad()
def test_routing_decoding_and_value_vectors_are_the_same(pair: Pair) -> None:
    if pair.here.mixture_layers:
        here, there = pair.here.routing(BATCH), pair.there.routing(BATCH)
        assert list(here) == list(there) and pair.here.experts_per_token == pair.there.experts_per_token
        for layer, mine in here.items():
            assert torch.equal(mine.logits, there[layer].logits)
            assert torch.equal(mine.chosen, there[layer].chosen) and torch.equal(mine.weights, there[layer].weights)
    state = torch.randn(3, pair.here.d_model, generator=torch.Generator().manual_seed(1))
    assert torch.equal(pair.there.decode(state), pair.here.decode(state))
    assert torch.equal(pair.there.unembedding, pair.here.unembedding)
    assert torch.equal(pair.there.final_gain, pair.here.final_gain)
    assert torch.equal(pair.there.value_vectors(1).vectors, pair.here.value_vectors(1).vectors)
    for (site, mine), (other, theirs) in zip(pair.here.mlps(), pair.there.mlps(), strict=True):
        assert site == other and torch.equal(mine, theirs)
    neurons = pair.here.random_neurons(6, seed=3)
    assert pair.there.random_neurons(6, seed=3) == neurons
    assert torch.equal(pair.there.vectors_at(neurons), pair.here.vectors_at(neurons))


def test_the_skeleton_knows_what_the_open_model_knows(pair: Pair) -> None:
    assert pair.there.anatomy == pair.here.anatomy and pair.there.taps == pair.here.taps
    assert [pair.there.width(s) for s in every_site(pair.here)] == [pair.here.width(s) for s in every_site(pair.here)]
    assert pair.there.parameter_names() == pair.here.parameter_names()


# ---- probes


PROBES: dict[str, tuple[str, Callable[[], Any]]] = {
    "logit_lens": ("dense", lambda: _probe("logit_lens")(statistic="logprob")),
    "linear_probes": ("dense", lambda: _probe("linear_probes")(seeds=1)),
    "causal_trace": ("dense", lambda: _probe("causal_trace")(max_facts=3, window=2)),
    "concept_vectors": ("dense", lambda: _probe("concept_vectors")()),
    "best_of_n": ("dense", lambda: _probe("best_of_n")()),
}


def _probe(name: str) -> Any:
    from audits.behaviour import BEHAVIOUR
    from probes import PROBES as THERE_ARE

    return (THERE_ARE if name in THERE_ARE else BEHAVIOUR).load(name)


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_reads_the_same(name: str, dense: Pair, planted: Any) -> None:
    probe = PROBES[name][1]()
    here, there = (probe.look(model, planted.concept.forget) for model in (dense.here, dense.there))
    assert here.labels == there.labels and np.isfinite(here.values).any()
    assert np.allclose(here.values, there.values, atol=1e-5, rtol=0, equal_nan=True)
    assert there.notes["remote"] == "local" and "remote" not in here.notes


# ---- what goes over the wire, and what does not


def test_a_pass_is_taken_apart_where_our_modules_are_hidden(
    dense: Pair, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from nnsight.schema.request import RequestModel

    monkeypatch.syspath_prepend(tmp_path)  # nnsight would leave it last
    sent: list[tuple[int, bool]] = []
    real, path = RequestModel.deserialize, list(sys.path)

    def seen(blob: bytes, *rest: Any, **more: Any) -> Any:
        sent.append((len(blob), "workbench" in sys.modules))
        return real(blob, *rest, **more)

    monkeypatch.setattr(RequestModel, "deserialize", staticmethod(seen))
    dense.there.run(BATCH, read=[Site(0, "resid_post")])
    assert len(sent) == 1 and 1000 < sent[0][0] < 1_000_000 and not sent[0][1]
    assert sys.path == path and "workbench" in sys.modules


def test_weights_come_lazily_once_and_are_counted(planted_folder: Path) -> None:
    there = RemoteCheckpoint(str(planted_folder), deployment=HERE).open()
    ran = there.run(BATCH, read=[Site(1, "mlp_act")])
    assert there.fetched == 0 and there.width(Site(1, "mlp_act")) == ran.acts[Site(1, "mlp_act")].shape[-1]
    assert all(parameter.is_meta for parameter in there.hf.parameters())
    there.decode(torch.zeros(there.d_model))
    final = sum(there.hf.get_parameter(n).nbytes for n in ("model.norm.weight", "lm_head.weight"))
    assert there.fetched == final
    found = there.value_vectors(1)
    assert there.fetched == final + found.weight.nbytes
    there.value_vectors(1), there.unembedding, there.decode(torch.zeros(there.d_model))
    assert there.fetched == final + found.weight.nbytes
    assert there.hf.get_parameter("model.layers.0.mlp.down_proj.weight").is_meta


def test_other_weights_over_there_are_found_out(planted_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = RemoteCheckpoint(str(planted_folder), deployment=HERE).open()
    real = there.wire.weights
    monkeypatch.setattr(there.wire, "weights", lambda *given: [1.1 * tensor for tensor in real(*given)])
    with pytest.raises(RunError, match="does not decode: its last state gives other logits"):
        there.decode(torch.zeros(there.d_model))
    other = RemoteCheckpoint(str(planted_folder), deployment=HERE).open()
    monkeypatch.setattr(other.wire, "weights", lambda *given: [tensor[:-1] for tensor in real(*given)])
    with pytest.raises(RunError, match=r"local stores model.layers.0.mlp.down_proj.weight as .* its config says"):
        other.value_vectors(0)


REFUSED: dict[str, Callable[[Any], Any]] = {
    "gradients": lambda m: m.run(BATCH, grad=True),
    "whole": lambda m: m.run(BATCH, start=Start(1, torch.zeros(2, 5, m.d_model))),
    "whole one": lambda m: m.run(BATCH, remember=True),
    "every pass": lambda m: m.prefix([0, 1]),
    "shortcuts=False": lambda m: patch_each(m, [0, 1], [[]], kept=[0], shortcuts=True),
    "self-check": lambda m: m.check(),
    "lm_head.weight is not here": lambda m: m.parameter("lm_head.weight"),
    "to train it": lambda m: m.train([], None, None, None),
    "to edit it": lambda m: m.wearing("digest").__enter__(),
}


@pytest.mark.parametrize("why", REFUSED)
def test_it_can_be_read_not_edited(why: str, dense: Pair) -> None:
    with pytest.raises(BadInput, match=f"is on local: a remote model can be read, not edited or trained; .*{why}"):
        REFUSED[why](dense.there)


def test_a_rewrite_that_is_a_function_is_not_sent(dense: Pair) -> None:
    with pytest.raises(BadInput, match="rewrite of L0.resid_post .*only data is sent.*put"):
        dense.there.run(BATCH, rewrite={Site(0, "resid_post"): lambda value: 2 * value})


@pytest.mark.parametrize("part", READ_ONLY)
def test_what_cannot_be_rewritten_here_cannot_be_there(part: str, mixture: Pair) -> None:
    with pytest.raises(BadInput, match="can be read but not rewritten"):
        mixture.there.run(BATCH, rewrite={Site(0, part): torch.zeros_like})


def test_a_dense_layer_has_no_routing(dense: Pair) -> None:
    with pytest.raises(BadInput, match="no mixture of experts"):
        dense.there.routing(BATCH, [0])


@torch.no_grad()
def test_many_patches_are_whole_passes(mixture: Pair) -> None:
    ids = BATCH.ids[0].tolist()
    value = torch.randn(1, mixture.here.d_model, generator=torch.Generator().manual_seed(2))
    patches = [[Patch(Site(1, "resid_post"), (3,), value)], [], [Patch(Site(2, "attn_out"), (1,), value)]]
    here, there = (patch_each(model, ids, patches, kept=[3, 4]) for model in (mixture.here, mixture.there))
    torch.testing.assert_close(here, there, atol=1e-5, rtol=0)
    assert (there[0] - there[1]).abs().max() > 1e-3


# ---- where it is


@pytest.fixture
def no_deployment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORKBENCH_REMOTE_URL", "WORKBENCH_REMOTE_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(nnsight_quietly().CONFIG.API, "APIKEY", None)


@pytest.mark.usefixtures("no_deployment")
def test_without_a_deployment_it_says_what_to_set(planted_folder: Path) -> None:
    with pytest.raises(BadInput, match="WORKBENCH_REMOTE_URL.*WORKBENCH_REMOTE_KEY.*NDIF_API_KEY"):
        RemoteCheckpoint(str(planted_folder))


@pytest.mark.usefixtures("no_deployment")
@pytest.mark.parametrize("url", ["ndif", "ftp://host", "https://", "https://me:secret@host"])
def test_an_address_that_is_none_is_refused_unsaid(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_REMOTE_URL", url)
    with pytest.raises(BadInput, match="WORKBENCH_REMOTE_URL must") as caught:
        Deployment.configured()
    assert "secret" not in str(caught.value)


@pytest.mark.usefixtures("no_deployment")
def test_the_key_that_nnsight_has_is_for_its_own_host(monkeypatch: pytest.MonkeyPatch, planted_folder: Path) -> None:
    monkeypatch.setattr(nnsight_quietly().CONFIG.API, "APIKEY", "ndifs")
    assert Deployment.configured() == Deployment("https://api.ndif.us", "ndifs")
    monkeypatch.setenv("WORKBENCH_REMOTE_URL", "https://example.org/")
    assert Deployment.configured() == Deployment("https://example.org", None)
    there = RemoteCheckpoint(str(planted_folder)).open()
    assert there.wire._backend("https://example.org").api_key == ""


def test_the_key_is_in_no_record(planted_folder: Path) -> None:
    deployment = Deployment("https://example.org:8080", "secret")
    checkpoint = RemoteCheckpoint(str(planted_folder), deployment=deployment)
    assert checkpoint.record["remote"] == "example.org:8080"
    assert "secret" not in f"{deployment!r} {checkpoint!r} {checkpoint.record}"
    assert checkpoint.digest == RemoteCheckpoint(str(planted_folder), deployment=Deployment(deployment.url)).digest
    assert checkpoint.digest != RemoteCheckpoint(str(planted_folder), deployment=HERE).digest


def test_what_a_deployment_decides_cannot_be_asked_for(planted_folder: Path) -> None:
    with pytest.raises(BadInput, match="dtype cannot be chosen for a remote model"):
        RemoteCheckpoint(str(planted_folder), Opening(dtype="bfloat16"), HERE)
    with pytest.raises(BadInput, match="'a\\+b' is not a model a deployment could have"):
        RemoteCheckpoint("a+b", deployment=Deployment("https://example.org"))


def test_nnsight_is_imported_without_its_save_on_everything() -> None:
    code = (
        "import os; os.environ['NNSIGHT_CONFIG'] = 'mine'\n"
        "from workbench.model_remote_place import nnsight_quietly\n"
        "nnsight_quietly(); assert not hasattr(1, 'save') and os.environ['NNSIGHT_CONFIG'] == 'mine'"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_without_nnsight_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nnsight", None)
    with pytest.raises(BadInput, match=r"pip install 'unlearning-workbench\[inside\]'"):
        nnsight_quietly()


def test_a_hub_id_goes_out_as_it_is_known_there(
    planted_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, repo = "c" * 40, tmp_path / "hub" / "models--lab--tiny"
    shutil.copytree(planted_folder, repo / "snapshots" / commit, ignore=shutil.ignore_patterns("*.safetensors"))
    (repo / "refs").mkdir()
    (repo / "refs" / "v1").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    checkpoint = RemoteCheckpoint("lab/tiny@v1", deployment=Deployment("https://example.org"))
    assert checkpoint.name == "tiny" and checkpoint.record["commit"] == commit
    model = checkpoint.open().wire.model
    from nnsight.intervention import serialization

    key = json.loads(model.to_model_key().partition(":")[2])
    assert key == {"repo_id": "lab/tiny", "revision": "v1", "task": "text-generation"}
    assert str(tmp_path).encode() not in serialization.dumps(model)  # no folder of ours goes out


# ---- a stand-in deployment in a process of its own


@pytest.fixture(scope="module")
def stand_in(mixture: Pair) -> Iterator[str]:
    script = Path(__file__).with_name("stand_in_deployment.py")
    words = [sys.executable, "-I", str(script), str(mixture.folder)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        process.kill()


@torch.no_grad()
def test_over_http_in_a_process_without_the_workbench_it_is_the_same(mixture: Pair, stand_in: str) -> None:
    there = RemoteCheckpoint(str(mixture.folder), deployment=Deployment(stand_in, "right")).open()
    sites = every_site(mixture.here)
    for rewrite in ({}, some_rewrites(mixture.here)):
        assert_same(mixture.here.run(BATCH, read=sites, rewrite=rewrite), there.run(BATCH, read=sites, rewrite=rewrite))
    here, far = mixture.here.routing(BATCH, [1])[1], there.routing(BATCH, [1])[1]
    assert torch.equal(here.chosen, far.chosen) and torch.equal(here.weights, far.weights)
    state = torch.randn(2, there.d_model)
    assert torch.equal(there.decode(state), mixture.here.decode(state)) and there.fetched > 0


WRONG = {
    "wrong": (BadInput, r"rejected the key \(401\). Set WORKBENCH_REMOTE_KEY"),
    "mute": (RunError, "did not answer in time: nothing was heard for 0.3 seconds"),
    "leaves": (RunError, "broke off the connection .*Run the same command again"),
}


@pytest.mark.parametrize("key", WRONG)
def test_what_goes_wrong_there_is_one_sentence(key: str, mixture: Pair, stand_in: str) -> None:
    there = RemoteCheckpoint(str(mixture.folder), deployment=Deployment(stand_in, key)).open()
    there.wire.silence = 0.3
    kind, words = WRONG[key]
    with pytest.raises(kind, match=f"The deployment 127.0.0.1:[0-9]+ {words}"):
        there.run(BATCH)


def test_a_pass_that_fails_there_says_how(mixture: Pair, stand_in: str) -> None:
    there = RemoteCheckpoint(str(mixture.folder), deployment=Deployment(stand_in, "right")).open()
    with pytest.raises(RunError, match="could not finish the pass: IndexError: index out of range"):
        there.run(pad([[10**6]]))


def test_a_model_that_is_not_served_is_named(planted_folder: Path, stand_in: str) -> None:
    there = RemoteCheckpoint(str(planted_folder), deployment=Deployment(stand_in, "right")).open()
    with pytest.raises(BadInput, match=r"does not take this model or request \(404\).*planted.*is not deployed"):
        there.run(BATCH)


def test_an_answer_that_is_code_is_not_executed() -> None:
    nnsight_quietly()
    from workbench.model_remote_wire import _tensors_in

    class Evil:
        def __reduce__(self) -> Any:
            return eval, ("1 + 1",)

    for content in ([torch.arange(3.0)], Evil()):
        stream = io.BytesIO()
        torch.save({"found": content}, stream, pickle_protocol=4)
        if isinstance(content, list):
            assert torch.equal(_tensors_in(stream.getvalue())["found"][0], content[0])
        else:
            with pytest.raises(pickle.UnpicklingError, match="builtins.eval, which is not read"):
                _tensors_in(stream.getvalue())
