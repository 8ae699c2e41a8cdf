"""`unlearn` killed with SIGKILL at random moments, the same command again each time: the bytes of a run left alone.

A moment is any update, or any file that is about to be put in its place, and a little more. One process imports
everything and forks a child for each command, as the imports take longer than these trainings.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import as_file
from workbench.demo.planted import plant

STEPS = 40
METHODS = {
    "npo": ("npo", "llama"),
    "pdu": ("pdu", "llama"),
    "sophia": ("grad_diff", "llama", "--set", "optimizer=sophia", "--set", "mask=salun"),
    "rmu": ("rmu", "llama"),
    "causal_layers": ("causal_layers", "llama", "--where", "L1.mlp_out", "--set", "batch_size=4"),
    "single_expert": ("single_expert", "olmoe", "--set", "loss=pdu"),
}
"""A plain training; one whose loss has a state of its own; an optimizer that draws, with a mask; losses that look
inside; a loss with a state outside the catalogue's loop; an anchor."""

SCRIPT = """
import os, random, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from interventions import INTERVENTIONS, causal_layers
from interventions.gradient import descend
from workbench import edited_folder, training
from workbench.cli import main, unlearn

out, kills, words = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
descend.KEEP_EVERY = causal_layers.KEEP_EVERY = training.train.__kwdefaults__["keep_every"] = 5
INTERVENTIONS.load(words[1])
rng = random.Random(words[1])

def telling(what, sign, pipe, pause):
    def call(*given, **more):
        os.write(pipe, sign(given))
        time.sleep(pause)
        return what(*given, **more)
    return call

def step(given):
    return b"e" if given[1] == given[0].total else b"s"

def begun(folder, pause):
    mine, theirs = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(mine)
        unlearn._Told.__call__ = telling(unlearn._Told.__call__, step, theirs, 0)
        os.replace, os.rename = (telling(f, lambda _: b"w", theirs, pause) for f in (os.replace, os.rename))
        os._exit(main([*words, "--out", str(folder), "--quiet", "--json"]))
    os.close(theirs)
    return pid, mine

def ended(pid, pipe):
    os.close(pipe)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def until(pipe, enough):
    seen = b""
    while not enough(seen) and (sign := os.read(pipe, 1)):
        seen += sign
    return seen

results = os.dup(1)
os.dup2(2, 1)
pid, pipe = begun(out / "whole", 0)
events = len(until(pipe, lambda seen: False))
codes = [ended(pid, pipe)]
for kill in range(kills + 1):
    pid, pipe = begun(out / "killed", 0.002)
    if kill == kills:
        until(pipe, lambda seen: False)
    else:
        if kill == kills - 2:  # when the training is over and its result is written
            until(pipe, lambda seen: b"e" in seen)
        count = rng.randint(1, 2 if kill >= kills - 2 else events // kills)
        until(pipe, lambda seen: len(seen) == count)
        time.sleep(rng.choice([0, 0, 0.001, 0.01]))
        os.kill(pid, signal.SIGKILL)
    codes.append(ended(pid, pipe))
os.write(results, " ".join(map(str, codes)).encode())
"""


def files(run: Path) -> dict[str, bytes]:
    """Every file of a run that does not tell the time."""
    return {
        str(file.relative_to(run)): file.read_bytes() if file.name not in ("manifest.json", "events.jsonl") else b""
        for file in run.rglob("*")
        if file.is_file()
    }


def killed(tmp_path: Path, method: str, kills: int) -> None:
    name, arch, *more = METHODS[method]
    found = plant(arch, 0)
    model, concept = found.save(tmp_path / "model"), tmp_path / "concept.json"
    concept.write_text(json.dumps(as_file(found.concept)))
    words = ["unlearn", name, str(model), "--concept", str(concept), "--set", f"steps={STEPS}", "--set", "lr=1e-3"]
    code = [sys.executable, "-c", SCRIPT, str(tmp_path), str(kills), *words, *more]
    done = subprocess.run(code, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ["0", *["-9"] * kills, "0"], done.stderr
    whole, resumed = files(tmp_path / "whole"), files(tmp_path / "killed")
    assert sorted(resumed) == sorted(whole)  # nothing is left of what was being written
    assert [name for name in whole if whole[name] != resumed[name]] == []
    assert {"checkpoint/model.safetensors", "edit.safetensors", "receipt.json"} <= set(whole)


@pytest.mark.slow
def test_ten_kills_make_no_difference(tmp_path: Path) -> None:
    killed(tmp_path, "npo", 10)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_ten_kills_of_every_kind(tmp_path: Path, method: str) -> None:
    killed(tmp_path, method, 10)
