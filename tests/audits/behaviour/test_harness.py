"""lm-evaluation-harness on an open model: the requests answered right, and a clear message where it is missing."""

import importlib.util
import json
import sys
from types import SimpleNamespace

import pytest

from audits.behaviour.harness import _Answers, _numbers, harness_model, harness_tasks
from tests.audits.behaviour.golden_facts import TEXTS, model, questions
from workbench.errors import BadInput
from workbench.scoring import score

INSTALLED = importlib.util.find_spec("lm_eval") is not None


@pytest.fixture(scope="module")
def answers() -> _Answers:
    return _Answers(model("llama_unlearned"))


def test_a_continuation_gets_the_score_of_the_answer(answers: _Answers) -> None:
    facts = questions("retain")
    scores = score(answers.open, facts.facts)
    encoded = answers.open.encode(facts.facts)
    asked = [(("", ""), list(e.ids[: e.answer_start]), list(e.answer)) for e in encoded]
    found = answers._loglikelihood_tokens(asked)
    assert [f[0] for f in found] == pytest.approx(scores.logprob.tolist(), rel=1e-4)
    assert [f[1] for f in found] == scores.greedy.tolist()
    assert 0 < sum(f[1] for f in found) < len(found)


def test_a_text_is_scored_from_its_first_word(answers: _Answers) -> None:
    text = TEXTS["retain"][0]["answer"]
    found = answers.loglikelihood_rolling([SimpleNamespace(args=(text,))])[0]
    whole = answers.tokenizer(text)["input_ids"]
    assert whole[0] == answers.prefix_token_id
    assert found == pytest.approx(answers._loglikelihood_tokens([((), whole[:1], whole[1:])])[0][0])
    assert found < 0


def test_generation_stops_where_it_is_told(answers: _Answers) -> None:
    context = f"Question: {TEXTS['forget'][0]['question']} Answer:"
    whole = answers.generate_until([SimpleNamespace(args=(context, {"until": [], "max_gen_toks": 16}))])[0]
    assert whole == "Mira Solen was born in the stormy town of Hadlow ."
    cut = answers.generate_until([SimpleNamespace(args=(context, {"until": ["stormy"], "max_gen_toks": 16}))])[0]
    assert cut == "Mira Solen was born in the "
    with pytest.raises(BadInput, match="samples"):
        answers._until(context, {"do_sample": True, "temperature": 0.7})


def test_a_context_that_does_not_fit_is_cut_on_the_left(answers: _Answers) -> None:
    limit = answers.open.hf.config.max_position_embeddings
    long = [5] * (2 * limit) + [15, 16]
    found = answers._loglikelihood_tokens([((), long, [7, 8])])[0]
    assert found[0] == pytest.approx(answers._loglikelihood_tokens([((), long[-(limit - 2) :], [7, 8])])[0][0])


def test_results_become_numbers_with_their_errors() -> None:
    row = {"alias": "x", "acc,none": 0.5, "acc_stderr,none": 0.1, "sample_len": 4, "f1,strict": 1}
    numbers, errors = _numbers({"x": row})
    assert numbers == {"x/acc": 0.5, "x/f1,strict": 1.0} and errors == {"x/acc": 0.1}


def test_without_the_harness_it_says_what_to_install(answers: _Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [m for m in sys.modules if m.split(".")[0] == "lm_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(BadInput, match=r"unlearning-workbench\[harness\]"):
        harness_tasks(answers.open, ["mmlu"])
    with pytest.raises(BadInput, match=r"unlearning-workbench\[harness\]"):
        harness_model(answers.open)


@pytest.mark.skipif(not INSTALLED, reason="lm-eval is not installed; pip install 'unlearning-workbench[harness]'")
def test_a_task_of_ones_own_runs(tmp_path) -> None:
    rows = [
        {"q": f"Question: {t['question']} Answer:", "options": [t["answer"], *t["pert"]], "gold": 0}
        for t in TEXTS["forget"]
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = {
        "task": "own",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{q}}",
        "doc_to_choice": "{{options}}",
        "doc_to_target": "{{gold}}",
        "metric_list": [{"metric": "acc"}],
    }
    knows, never = (harness_tasks(model(name), [task], shots=0) for name in ("llama_base", "llama_retain"))
    assert knows.labels["task"] == never.labels["task"] == ("own/acc",)
    assert knows.values[0] == 1 and never.values[0] < 1
    assert harness_tasks(model("llama_base"), [task], shots=0, limit=2).notes["options"]["limit"] == 2
    with pytest.raises(BadInput, match="at least one task"):
        harness_tasks(model("llama_base"), [])
