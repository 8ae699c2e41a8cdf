"""Guards: what a trigger tells, where operators then act, and what a speech makes of the logits."""

from pathlib import Path

import pytest
import torch

from workbench.concepts import Fact
from workbench.edits import HookEdit, Operator, load_edit
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.scoring import score
from workbench.sites import Site
from workbench.speech import CERTAIN, Speech
from workbench.tokens import pad
from workbench.triggers import Trigger, acts_on, box, linear

LAST = Site(2, "resid_post")


@pytest.fixture(scope="module")
def model(planted) -> HookedModel:
    return HookedModel(planted.model, planted.tokenizer)


def always(site: Site = LAST, width: int = 128) -> Trigger:
    return Trigger(site, "linear", {"weight": torch.zeros(width), "bias": torch.tensor(1.0)})


def on_fact(model: HookedModel, fact: Fact, radius: float = 1e-4) -> Trigger:
    """Fires where the last prompt token's state is this fact's."""
    encoded = model.encode([fact])[0]
    batch = pad([encoded.ids[: encoded.answer_start]])
    state = model.run(batch, read=[LAST], logits=False).acts[LAST][0, -1]
    return Trigger(LAST, "box", {"mean": state, "radius": torch.full_like(state, radius)})


def said(model: HookedModel, text: str = "sorry") -> Speech:
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    return Speech("abstain", {"text": torch.tensor(ids)})


class TestActsOn:
    """Where a guard acts, from what its detector says token by token."""

    def test_a_prompt_that_fires_at_its_end_is_acted_on_whole(self):
        fires = torch.tensor([[False, False, True, False, False]])
        assert acts_on(fires, torch.tensor([3])).tolist() == [[True] * 5]

    def test_what_fires_inside_the_prompt_does_not_count(self):
        fires = torch.tensor([[True, True, False, False, False]])
        assert acts_on(fires, torch.tensor([3])).tolist() == [[False] * 5]

    def test_what_is_said_later_counts_from_there_on(self):
        fires = torch.tensor([[True, False, False, True, False]])
        assert acts_on(fires, torch.tensor([3])).tolist() == [[False, False, False, True, True]]

    def test_rows_are_judged_alone(self):
        fires = torch.tensor([[False, True, False], [False, False, False]])
        assert acts_on(fires, torch.tensor([2, 2])).tolist() == [[True, True, True], [False, False, False]]


class TestDetectors:
    def test_box_counts_the_share_of_entries_inside(self):
        value = torch.tensor([[[0.0, 0.0], [0.0, 5.0]]])
        mask = torch.ones(1, 2, dtype=torch.bool)
        given = {"mean": torch.zeros(2), "radius": torch.ones(2)}
        assert box(value, mask, **given).tolist() == [[True, False]]
        assert box(value, mask, share=0.5, **given).tolist() == [[True, True]]

    def test_linear_pools_over_the_text_so_far(self):
        value = torch.tensor([[[3.0], [-1.0], [-5.0]]])
        mask = torch.ones(1, 3, dtype=torch.bool)
        weight, bias = torch.ones(1), torch.tensor(0.0)
        assert linear(value, mask, weight=weight, bias=bias).tolist() == [[True, True, False]]
        assert linear(value, mask, weight=weight, bias=bias, pooled=False).tolist() == [[True, False, False]]

    def test_padding_does_not_enter_the_mean(self):
        value = torch.tensor([[[3.0], [-1.0], [-99.0]]])
        mask = torch.tensor([[True, True, False]])
        answer = linear(value, mask, weight=torch.ones(1), bias=torch.tensor(0.0))
        assert answer[0, :2].tolist() == [True, True]


class TestAbstaining:
    def test_the_text_is_said_then_the_end(self, model, planted):
        fact = planted.concept.forget.facts[0]
        edit = HookEdit(model.identity, {}, trigger=always(), speech=said(model, "the of"))
        (encoded,) = model.encode([fact.model_copy(update={"answer": "the of is"})])
        batch = pad([encoded.ids], [encoded.answer_start])
        with edit.on(model):
            logits = model.run(batch).logits
        text = model.tokenizer("the of", add_special_tokens=False)["input_ids"]
        at = encoded.answer_start - 1
        assert logits[0, at : at + 3].argmax(-1).tolist() == [*text, model.tokenizer.eos_token_id]
        assert logits[0, at].max() == CERTAIN

    def test_inside_the_prompt_nothing_is_forced(self, model, planted):
        (encoded,) = model.encode(planted.concept.forget.facts[:1])
        batch = pad([encoded.ids], [encoded.answer_start])
        plain = model.run(batch).logits
        with HookEdit(model.identity, {}, trigger=always(), speech=said(model)).on(model):
            guarded = model.run(batch).logits
        inside = encoded.answer_start - 1
        assert torch.equal(plain[:, :inside], guarded[:, :inside])
        assert not torch.equal(plain[:, inside:], guarded[:, inside:])

    def test_only_the_prompts_it_is_for_are_refused(self, model, planted):
        facts = planted.concept.forget.facts
        edit = HookEdit(model.identity, {}, trigger=on_fact(model, facts[0]), speech=said(model))
        before = score(model, facts)
        with edit.on(model):
            after = score(model, facts)
        assert before.greedy.all()
        assert after.greedy.tolist() == [False] + [True] * (len(facts) - 1)
        assert torch.equal(after.logprob[1:], before.logprob[1:])
        assert after.logprob[0] < -CERTAIN

    def test_a_pass_and_the_score_say_the_same(self, model, planted):
        facts = planted.concept.forget.facts[:3]
        encoded = model.encode(facts)
        batch = pad([e.ids for e in encoded], [e.answer_start for e in encoded])
        with HookEdit(model.identity, {}, trigger=on_fact(model, facts[1]), speech=said(model)).on(model):
            logits, scored = model.run(batch).logits.log_softmax(-1), score(model, facts)
            last = model.run(batch, logits=2).logits
            chosen = model.run(batch, logits=torch.tensor([1, 4])).logits
            whole = model.run(batch).logits
        total = [
            sum(float(logits[i, e.answer_start + k - 1, token]) for k, token in enumerate(e.answer))
            for i, e in enumerate(encoded)
        ]
        assert total == pytest.approx(scored.logprob.tolist(), abs=1e-3)
        assert torch.allclose(last, whole[:, -2:], atol=1e-5)
        assert torch.allclose(chosen, whole[:, [1, 4]], atol=1e-5)


class TestActing:
    """Operators with a trigger act only on the rows it told."""

    def test_operators_act_on_the_rows_that_fired_and_leave_the_others(self, model, planted):
        facts = planted.concept.forget.facts[:4]
        silence = {Site(1, "mlp_out"): Operator("scale", torch.tensor(0.0))}
        edit = HookEdit(model.identity, {}, operators=silence, trigger=on_fact(model, facts[2]))
        before = score(model, facts)
        with edit.on(model):
            after = score(model, facts)
        assert after.greedy.tolist() == [True, True, False, True]
        assert torch.equal(after.logprob[[0, 1, 3]], before.logprob[[0, 1, 3]])

    def test_without_a_trigger_they_act_everywhere(self, model, planted):
        silence = {Site(1, "mlp_out"): Operator("scale", torch.tensor(0.0))}
        with HookEdit(model.identity, {}, operators=silence).on(model):
            assert not score(model, planted.concept.forget.facts).greedy.any()

    def test_what_happens_to_a_prompt_does_not_depend_on_its_neighbours(self, model, planted):
        facts = planted.concept.forget.facts
        edit = HookEdit(model.identity, {}, trigger=on_fact(model, facts[0]), speech=said(model))
        with edit.on(model):
            together = score(model, facts).logprob
            alone = torch.cat([score(model, [fact]).logprob for fact in facts])
        assert together.tolist() == pytest.approx(alone.tolist(), abs=1e-4)

    def test_a_guard_judges_what_the_guards_below_it_leave(self, model, planted):
        fact = planted.concept.forget.facts[0]
        silence = HookEdit(model.identity, {}, operators={LAST: Operator("scale", torch.tensor(0.5))})
        with silence.on(model):
            over = HookEdit(model.identity, {}, trigger=on_fact(model, fact), speech=said(model))
            with over.on(model):
                assert not score(model, [fact]).greedy.any()
        bare = HookEdit(model.identity, {}, trigger=over.trigger, speech=said(model))
        with bare.on(model):  # the state it was made for is only there under the other guard
            assert score(model, [fact]).greedy.all()

    def test_the_model_is_as_it_was_afterwards(self, model, planted):
        fact = planted.concept.forget.facts[0]
        before, identity = score(model, [fact]).logprob, model.identity
        with HookEdit(model.identity, {}, trigger=always(), speech=said(model)).on(model):
            assert model.identity != identity
        assert torch.equal(score(model, [fact]).logprob, before)
        assert (model.guards, model.identity) == ([], identity)

    def test_passes_that_leave_out_tokens_are_refused(self, model, planted):
        (encoded,) = model.encode(planted.concept.forget.facts[:1])
        prefix = model.prefix(encoded.ids[:2])
        edit = HookEdit(model.identity, {}, trigger=always(), speech=said(model))
        with edit.on(model), pytest.raises(BadInput, match="whole rows"):
            model.run(pad([encoded.ids[2:]]), prefix=prefix)


class TestStoring:
    def test_a_guard_is_loaded_as_it_was_saved(self, model, planted, tmp_path: Path):
        facts = planted.concept.forget.facts[:3]
        silence = {Site(1, "mlp_out"): Operator("scale", torch.tensor(0.0))}
        edit = HookEdit(
            model.identity, {"m": 1}, operators=silence, trigger=on_fact(model, facts[0]), speech=said(model)
        )
        edit.save(tmp_path / "guard")
        again = load_edit(tmp_path / "guard")
        assert again.digest == edit.digest
        with edit.on(model):
            ours = score(model, facts).logprob
        with again.on(model):
            assert torch.equal(score(model, facts).logprob, ours)

    def test_a_changed_trigger_is_another_edit(self, model, planted):
        facts = planted.concept.forget.facts
        guards = [HookEdit("", {}, trigger=on_fact(model, fact), speech=said(model)) for fact in facts[:2]]
        assert guards[0].digest != guards[1].digest

    @pytest.mark.parametrize("make", [lambda: Trigger(LAST, "bxo"), lambda: Speech("abstian")])
    def test_an_unknown_kind_is_named(self, make):
        with pytest.raises(BadInput, match="Did you mean"):
            make()

    def test_a_trigger_of_another_width_is_refused(self, model, planted):
        edit = HookEdit(model.identity, {}, trigger=always(width=7), speech=said(model))
        with edit.on(model), pytest.raises(BadInput, match="cannot judge"):
            score(model, planted.concept.forget.facts[:1])


class TestStopping:
    """A pass that ends in the middle."""

    def test_sites_below_are_the_same(self, model, planted):
        (encoded,) = model.encode(planted.concept.forget.facts[:1])
        batch, site = pad([encoded.ids]), Site(1, "resid_post")
        short = model.run(batch, read=[site], logits=False, stop=2).acts[site]
        assert torch.equal(short, model.run(batch, read=[site], logits=False).acts[site])

    def test_blocks_above_hand_on(self, model, planted):
        (encoded,) = model.encode(planted.concept.forget.facts[:1])
        acts = model.run(pad([encoded.ids]), read=[Site(0, "resid_post"), LAST], logits=False, stop=1).acts
        assert torch.equal(acts[LAST], acts[Site(0, "resid_post")])
        whole = model.run(pad([encoded.ids]), read=[LAST], logits=False).acts
        assert not torch.equal(acts[LAST], whole[LAST])
