"""What a checkpoint may be given as, how it is opened, and that nothing of it is executed or fetched unasked."""

import json
import os
import shutil
import socket
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from workbench.checkpoint import Checkpoint, save_checkpoint
from workbench.checkpoint_config import require_comparable
from workbench.checkpoint_hub import refused_files
from workbench.demo.models import demo_tokenizer
from workbench.errors import BadInput
from workbench.opening import Opening

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "lab/tiny"


def llama(folder: Path, seed: int = 0, dtype: torch.dtype = torch.float32, **more: int) -> Path:
    """A tiny checkpoint with random weights."""
    torch.manual_seed(seed)
    tokenizer = demo_tokenizer()
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, **more}
    config = LlamaConfig(vocab_size=len(tokenizer), num_attention_heads=4, num_key_value_heads=2, **sizes)
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def hub(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache with one model, and a network that must not be touched."""
    cache = tmp_path / "hub"
    repo = cache / "models--lab--tiny"
    shutil.copytree(tiny, repo / "snapshots" / COMMIT)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    return cache


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        pytest.fail("something reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch):
    """The online way, with the download replaced by a function of one's own."""
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    calls: list[dict[str, object]] = []

    def replace(answer: object):
        def download(repo: str, **given: object) -> str:
            calls.append({"repo": repo, **given})
            if isinstance(answer, Exception):
                raise answer
            return str(answer)

        monkeypatch.setattr("huggingface_hub.snapshot_download", download)
        return calls

    return replace


def response(status: int):
    """What the hub's client puts into its errors."""
    import httpx2

    return httpx2.Response(status, request=httpx2.Request("GET", "https://example.org"))


# ---- what a text means


@pytest.mark.parametrize("name", ["a+b", "model@main", "lab+x@y+z"])
def test_an_existing_folder_is_that_folder_whatever_signs_are_in_its_name(tiny, tmp_path, name, no_network):
    folder = shutil.copytree(tiny, tmp_path / name)
    found = Checkpoint(str(folder))
    assert (found.folder, found.name, found.address) == (folder, name, str(folder))
    assert found.digest == Checkpoint(tiny).digest


def test_a_folder_and_a_cached_hub_id_are_opened_without_a_network(tiny, hub, no_network):
    folder = Checkpoint(tiny, opening=Opening(offline=True))
    cached = Checkpoint(REPO, opening=Opening(offline=True))
    assert (cached.name, cached.address) == ("tiny", f"{REPO}@{COMMIT}")
    assert cached.record["commit"] == COMMIT and folder.record["commit"] is None
    assert cached.digest == folder.digest
    assert Checkpoint(cached.address).digest == folder.digest
    with cached.open() as ours, folder.open() as theirs:
        ids = torch.arange(4, 12)[None]
        assert torch.equal(ours.hf(ids).logits, theirs.hf(ids).logits)


def test_a_local_folder_goes_before_a_hub_id(tiny, hub, tmp_path, monkeypatch, no_network):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny, Path(REPO))
    assert Checkpoint(REPO).address == REPO
    with pytest.raises(BadInput, match="a folder here"):
        Checkpoint(f"{REPO}@main")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lab/other", ["no folder 'lab/other' here", "not in the local cache", "hf download lab/other"]),
        (f"{REPO}@v2", ["'lab/tiny' at revision 'v2'", "hf download lab/tiny --revision v2"]),
        (f"{REPO}@", ["names no revision after the @"]),
        ("tiny", ["There is no checkpoint folder 'tiny'", "org/name"]),
        ("./lab/tiny", ["There is no checkpoint folder './lab/tiny'"]),
        ("~nobody-here/tiny", ["There is no checkpoint folder"]),
        (f"{REPO}+", ["lacks a half"]),
        (f"+{REPO}", ["lacks a half"]),
        (f"{REPO}+missing", ["There is no adapter folder 'missing'"]),
        (f"missing+{REPO}", ["There is no checkpoint folder 'missing'"]),
        ("x" * 5000, ["There is no checkpoint folder"]),
        ("", ["There is no checkpoint folder ''"]),
    ],
)
def test_a_text_that_means_nothing(hub, no_network, text, words):
    with pytest.raises(BadInput) as refused:
        Checkpoint(text, opening=Opening(offline=True))
    for word in words:
        assert word in str(refused.value)


def test_offline_may_come_from_the_environment(hub, tmp_path, monkeypatch, no_network):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(BadInput, match="the network is off"):
        Checkpoint("lab/other")


def test_a_path_object_is_never_a_hub_id(hub):
    with pytest.raises(BadInput, match="no checkpoint folder 'lab/tiny'"):
        Checkpoint(Path(REPO))


def test_half_a_cached_model_says_how_to_get_the_rest(hub):
    (hub / "models--lab--tiny" / "snapshots" / COMMIT / "model.safetensors").unlink()
    with pytest.raises(BadInput, match=r"no \*\.safetensors.*without --offline.*fetched only with --allow-pickle"):
        Checkpoint(REPO)


# ---- the hub


LISTING = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "model-00001-of-00002.safetensors",
    "model.safetensors.index.json",
    "chat_template.jinja",
    "LICENSE",
    "pytorch_model.bin",
    "tokenizer.pkl",
    "vocab.pt",
    "modeling_tiny.py",
    "tokenizer.py",
    "README.md",
    "original/model.safetensors",
    "tokenizer/vocab.json",
    "consolidated.safetensors",
)


def fetched(call: dict[str, object]) -> set[str]:
    from huggingface_hub.utils import filter_repo_objects

    allow, ignore = call["allow_patterns"], call["ignore_patterns"]
    return set(filter_repo_objects(LISTING, allow_patterns=allow, ignore_patterns=ignore))


def test_neither_pickles_nor_code_are_fetched_unless_allowed(hub, online):
    calls = online(hub / "models--lab--tiny" / "snapshots" / COMMIT)
    for opening in (Opening(), Opening(allow_pickle=True), Opening(trust_remote_code=True)):
        Checkpoint(f"{REPO}@v1", opening=opening)
    plain, pickled, trusted = map(fetched, calls[:3])
    assert plain == set(LISTING[:8])
    assert pickled - plain == {"pytorch_model.bin", "tokenizer.pkl", "vocab.pt"}
    assert trusted - plain == {"modeling_tiny.py", "tokenizer.py"}
    assert [(c["repo"], c["revision"], c["local_files_only"]) for c in calls] == [(REPO, "v1", False)] * 3
    Checkpoint(f"{REPO}@v1", opening=Opening(offline=True))
    assert calls[-1]["local_files_only"] is True
    assert "*.bin" in refused_files(Opening()) and "*.py" in refused_files(Opening())


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RepositoryNotFoundError("no", response=response(404)), ["no folder 'lab/tiny' here", "no public model"]),
        (GatedRepoError("no", response=response(403)), ["gated", "Accept its terms"]),
        (RevisionNotFoundError("no", response=response(404)), ["no revision 'v1'"]),
        (LocalEntryNotFoundError("no"), ["the hub cannot be reached", "Check the connection"]),
        (ConnectionError("no route"), ["the hub cannot be reached (ConnectionError)"]),
        (OSError(28, "No space left on device"), ["Cannot write", "No space left"]),
    ],
)
def test_every_way_a_download_fails_is_one_sentence(online, error, words):
    online(error)
    with pytest.raises(BadInput) as refused:
        Checkpoint(f"{REPO}@v1")
    assert "\n" not in str(refused.value)
    for word in words:
        assert word in str(refused.value)


# ---- how it is opened


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": "float31"}, ["'dtype'", "'bfloat16'", "'float16'", "float31"]),
        ({"dype": "auto"}, ["no option 'dype'", "Did you mean 'dtype'?"]),
        ({"device_map": "everywhere"}, ["'device_map'", "must be auto, or a mapping"]),
        ({"device_map": {}}, ["must be auto, or a mapping"]),
        ({"device_map": {"model": "disk", "lm_head": "cpu"}}, ["left on disk cannot be looked into"]),
        ({"device_map": "auto", "device": "cuda"}, ["leave out device"]),
        ({"max_memory": {"cpu": "1GiB"}}, ["'max_memory'", "device_map=auto"]),
        ({"device_map": "auto", "max_memory": {"cpu": "much"}}, ["mapping of devices to sizes"]),
        ({"device_map": "auto", "max_memory": {"cpu": "20"}}, ["mapping of devices to sizes"]),
        ({"device_map": "auto", "max_memory": "1GiB"}, ["mapping of devices to sizes"]),
    ],
)
def test_an_opening_that_cannot_be(options, words):
    with pytest.raises(BadInput) as refused:
        Opening(**options)
    for word in words:
        assert word in str(refused.value)


def test_gpus_are_numbers_to_accelerate():
    opening = Opening(device_map="auto", max_memory={"0": "1GiB", "cuda:1": "2 MB", "cpu": 5})
    assert opening.memory == {0: "1GiB", 1: "2 MB", "cpu": 5}
    assert Opening().memory is None


def test_a_bf16_checkpoint_stays_bf16_unless_asked(tmp_path):
    folder = llama(tmp_path / "half", dtype=torch.bfloat16)
    for opening, dtype in ((Opening(), torch.bfloat16), (Opening(dtype="float32"), torch.float32)):
        with Checkpoint(folder, opening=opening).open() as model:
            assert {p.dtype for p in model.hf.parameters()} == {dtype}
    with Checkpoint(folder, opening=Opening(dtype="float32")).open(dtype="auto") as model:
        assert model.hf.dtype == torch.bfloat16
        written = save_checkpoint(model, tmp_path / "again")
    assert written.shards["model.safetensors"] == Checkpoint(folder).shards["model.safetensors"]


def test_a_device_map_of_one_device_changes_nothing(tiny):
    ids = torch.arange(4, 12)[None]
    with Checkpoint(tiny).open() as model:
        plain = model.hf(ids).logits
    for device_map in ("auto", {"": "cpu"}, {"model": "cpu", "lm_head": "cpu"}):
        with Checkpoint(tiny, opening=Opening(device_map=device_map)).open() as model:
            assert torch.equal(model.hf(ids).logits, plain)


def test_a_model_on_a_device_map_is_not_moved(tiny, monkeypatch):
    monkeypatch.setattr(LlamaForCausalLM, "to", lambda *_, **__: pytest.fail("accelerate put it where it belongs"))
    Checkpoint(tiny, opening=Opening(device_map={"": "cpu"})).open(check=False).close()


def test_weights_that_do_not_fit_on_the_devices_are_refused_not_read_as_nonsense(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    opening = Opening(device_map="auto", max_memory={"cpu": "20KB"})
    with pytest.raises(BadInput, match=r"modules of .* were left on disk.*lm_head.*raise max_memory"):
        Checkpoint(tiny, opening=opening).open()
    assert not list(tmp_path.iterdir())


def test_a_device_map_names_modules_the_model_has(tiny):
    with pytest.raises(BadInput, match=r"'modle', which this model does not have. Did you mean 'model'\?"):
        Checkpoint(tiny, opening=Opening(device_map={"modle": "cpu", "lm_head": "cpu"})).open()


@pytest.mark.parametrize("device", ["cuda:99", "toaster"])
def test_a_device_that_is_not_there(tiny, device):
    with pytest.raises(BadInput, match=f"on the device '{device}'"):
        Checkpoint(tiny).open(device)


def test_opening_changes_no_setting_of_the_process(tiny):
    from transformers.utils import logging

    Checkpoint(tiny).open().close()  # libraries set variables of their own when they are imported
    logging.enable_progress_bar()
    before = dict(os.environ), logging.get_verbosity(), logging.is_progress_bar_enabled(), torch.get_default_dtype()
    Checkpoint(tiny, opening=Opening(dtype="bfloat16")).open().close()
    assert before == (
        dict(os.environ),
        logging.get_verbosity(),
        logging.is_progress_bar_enabled(),
        torch.get_default_dtype(),
    )


# ---- pickles and code


class Payload:
    """An object whose unpickling creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self):
        return (os.mkdir, (self.marker,))


@pytest.fixture
def pickled(tiny: Path, tmp_path: Path) -> Path:
    from safetensors.torch import load_file

    folder = shutil.copytree(tiny, tmp_path / "pickled")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def test_pickled_weights_are_read_only_when_that_is_allowed(tiny, pickled):
    with pytest.raises(BadInput, match="--allow-pickle"):
        Checkpoint(pickled)
    allowed = Checkpoint(pickled, opening=Opening(allow_pickle=True))
    assert "pytorch_model.bin" in allowed.shards
    ids = torch.arange(4, 12)[None]
    with allowed.open() as model, Checkpoint(tiny).open() as plain:
        assert torch.equal(model.hf(ids).logits, plain.hf(ids).logits)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_pickle_runs_nothing_either_way(pickled, tmp_path, zipped):
    marker = tmp_path / "pwned"
    content = {"model.norm.weight": Payload(marker)}
    torch.save(content, pickled / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    for opening, words in ((Opening(), "are refused"), (Opening(allow_pickle=True), "holds more than tensors")):
        with pytest.raises(BadInput, match=words):
            Checkpoint(pickled, opening=opening).open()
        assert not marker.exists()
    torch.load(pickled / "pytorch_model.bin", weights_only=False)
    assert marker.exists()  # the payload works: only reading tensors alone kept it from running


def with_code(folder: Path, file: str, marker: Path) -> None:
    """Let a JSON file of a checkpoint ask for code that leaves a mark when it is executed."""
    (folder / "modeling_own.py").write_text(
        f"import os\nos.makedirs({str(marker)!r}, exist_ok=True)\n"
        "from transformers import LlamaForCausalLM, PreTrainedTokenizerFast\n"
        "class Own(LlamaForCausalLM): pass\nclass OwnTokenizer(PreTrainedTokenizerFast): pass\n"
    )
    path = folder / file
    wanted = (
        {"AutoModelForCausalLM": "modeling_own.Own"}
        if file == "config.json"
        else {"AutoTokenizer": [None, "modeling_own.OwnTokenizer"]}
    )
    path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": wanted}))


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_is_executed_only_when_it_is_trusted(tiny, tmp_path, monkeypatch, file):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    folder, marker = shutil.copytree(tiny, tmp_path / "own"), tmp_path / "executed"
    with_code(folder, file, marker)
    with pytest.raises(BadInput, match=rf"auto_map in {file}.*not executed.*--trust-remote-code"):
        Checkpoint(folder).open()
    assert not marker.exists()
    trusted = Checkpoint(folder, opening=Opening(trust_remote_code=True))
    trusted.open(check=False).close()
    assert marker.exists()
    assert "modeling_own.py" in trusted.shards


# ---- what is the same


def test_the_digest_covers_what_decides_and_nothing_else(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "copy")
    (folder / "README.md").write_text("a card")
    (folder / "optimizer.safetensors").write_bytes(b"of no account")
    assert Checkpoint(folder).digest == Checkpoint(tiny).digest
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert Checkpoint(folder).digest != Checkpoint(tiny).digest


def test_shards_are_found_through_the_index(tiny, tmp_path):
    with Checkpoint(tiny).open(check=False) as model:
        model.hf.save_pretrained(tmp_path / "cut", max_shard_size="60KB")
    for file in tiny.glob("tokenizer*"):
        shutil.copyfile(file, tmp_path / "cut" / file.name)
    cut = Checkpoint(tmp_path / "cut")
    assert sum(name.endswith(".safetensors") for name in cut.shards) > 2
    with cut.open(check=False) as ours, Checkpoint(tiny).open(check=False) as theirs:
        assert all(torch.equal(a, b) for a, b in zip(ours.hf.parameters(), theirs.hf.parameters(), strict=True))


def gpt2(folder: Path) -> Path:
    tokenizer = demo_tokenizer()
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda f: llama(f, num_hidden_layers=3), "number of layers 3 against 2"),
        (lambda f: llama(f, hidden_size=48), "hidden size 48 against 32"),
        (gpt2, "model type gpt2 against llama"),
    ],
)
def test_checkpoints_of_other_shapes_cannot_be_compared(tiny, tmp_path, make, words):
    with pytest.raises(BadInput, match=f"different architectures.*{words}.*the base it was made from"):
        require_comparable(Checkpoint(tiny), Checkpoint(make(tmp_path / "other")))


def test_checkpoints_of_one_shape_can_be_compared(tiny, tmp_path):
    require_comparable(Checkpoint(tiny), Checkpoint(llama(tmp_path / "other", seed=1)))


def test_the_same_shape_with_another_tokenizer_cannot(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "other")
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace('"<unk>"', '"<what>"'))
    with pytest.raises(BadInput, match="have different tokenizers, so"):
        require_comparable(Checkpoint(tiny), Checkpoint(folder))
