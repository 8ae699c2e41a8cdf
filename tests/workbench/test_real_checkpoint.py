"""A real pretrained checkpoint that nobody here made: Karpathy's stories260K (MIT), when it is at hand."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from workbench.checkpoint import Checkpoint
from workbench.cli.doctor_model import examine
from workbench.hooks import put
from workbench.opening import Opening
from workbench.sites import Site
from workbench.tokens import encode_text, pad

STORIES = Path(__file__).parents[3] / "shared" / "models" / "stories260K"

pytestmark = pytest.mark.skipif(not STORIES.is_dir(), reason=f"needs the pretrained checkpoint {STORIES.name}")


def test_it_passes_every_check() -> None:
    found = examine(str(STORIES), Opening())
    assert [c["name"] for c in found["checks"] if not c["passed"]] == []
    assert found["parameters"] == 260_032


def test_greedy_decoding_through_the_hooks_is_plain_decoding_for_200_tokens() -> None:
    plain = AutoModelForCausalLM.from_pretrained(STORIES, attn_implementation="eager").eval()
    with Checkpoint(STORIES).open() as model:
        start = list(encode_text(model.tokenizer, "Once upon a time"))
        theirs = plain.generate(
            torch.tensor([start]),
            attention_mask=torch.ones(1, len(start), dtype=torch.long),
            max_new_tokens=200,
            min_new_tokens=200,
            do_sample=False,
        )[0].tolist()
        ours = list(start)
        every = [site for site in model.taps if site.part != "resid_mid"]
        for _ in range(200):
            run = model.run(pad([ours]), read=every, rewrite=dict.fromkeys(every, torch.clone), logits=1)
            ours.append(int(run.logits[0, -1].argmax()))
        assert ours == theirs
        text = model.tokenizer.decode(ours)
        assert text.count(" ") > 60 and "Once upon a time" in text
        # The opposite: a rewrite that matters is seen in what it says.
        zero = put(torch.tensor([0]), torch.tensor([len(start) - 1]), torch.zeros(1, model.d_model))
        other = model.run(pad([start]), rewrite={Site(2, "resid_post"): zero}).logits
        assert (other - model.run(pad([start])).logits).abs().max() > 0.1
