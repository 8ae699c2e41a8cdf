"""What every stored metric record of published code is here: one function a record, and the variants it names."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from audits.metrics.answer_tokens import AnswerTokens, answer_tokens
from audits.metrics.cut import before
from audits.metrics.exact_memorisation import exact_memorisation
from audits.metrics.extraction_strength import extraction_strength
from audits.metrics.forget_quality import floor, forget_quality
from audits.metrics.gradient_size import gradient_size
from audits.metrics.min_k import min_k, standardised
from audits.metrics.model_utility import TofuSet, model_utility, tofu_utility
from audits.metrics.privleak import privleak, relative_difference
from audits.metrics.probability import among_options, token_probability
from audits.metrics.rouge import rouge
from audits.metrics.rwku_rouge import rwku_rouge
from audits.metrics.truth_ratio import truth_ratio, truth_score
from audits.metrics.zlib_ratio import zlib_ratio
from workbench.objectives import IGNORED
from workbench.stats import auc

GOLDEN = Path(__file__).parents[2] / "golden"
RECORDS = {r["id"]: r for r in json.loads((GOLDEN / "metrics.json").read_text())["records"]}
INPUTS = json.loads((GOLDEN / "metric_inputs.json").read_text())
BATCHES = load_file(GOLDEN / "batches.safetensors")
RAW = load_file(GOLDEN / "raw_logits.safetensors")
FOLDERS = {"llama_retain": GOLDEN / "depth" / "llama_retain"}


def folder(name: str) -> Path:
    return FOLDERS.get(name, GOLDEN / "models" / name)


@cache
def opened(name: str, dtype: str) -> Any:
    found = AutoModelForCausalLM.from_pretrained(folder(name), dtype=getattr(torch, dtype), attn_implementation="eager")
    return found.eval()


@cache
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(folder("llama_base"))


@cache
@torch.no_grad()
def logits(name: str, batch: str, dtype: str) -> Tensor:
    model = opened(name, dtype)
    return model(**{k: BATCHES[f"{batch}.{k}"] for k in ("input_ids", "attention_mask")}).logits


def tokens(name: str, batch: str, dtype: str, published: bool = False) -> list[AnswerTokens]:
    return answer_tokens(logits(name, batch, dtype), BATCHES[f"{batch}.labels"], published)


def losses(name: str, batch: str, dtype: str) -> np.ndarray:
    return np.array([t.loss for t in tokens(name, batch, dtype)])


@dataclass(frozen=True)
class Asked:
    """A record's id taken apart, the precision it is compared in, and the variant that is meant (empty: published)."""

    words: tuple[str, ...]
    dtype: str
    variant: str

    @property
    def inputs(self) -> dict[str, Any]:
        return RECORDS[".".join(self.words)]["inputs"]


def probability(asked: Asked) -> Any:
    _, _, *rest = asked.words
    if rest == ["raw"]:
        found = np.array([t.loss for t in answer_tokens(RAW["cur.forget_logits"], RAW["labels.forget"])])
        return [{"prob": p, "avg_loss": v} for p, v in zip(token_probability(found), found, strict=True)]
    found = losses(*rest, asked.dtype)
    each = [{"prob": p, "avg_loss": v} for p, v in zip(token_probability(found), found, strict=True)]
    return {"agg_value": token_probability(found).mean(), "per_example": each}


def tokenwise(asked: Asked) -> Any:
    return [t.logprob.tolist() for t in tokens("llama_base", asked.words[-1], asked.dtype, published=True)]


def options(asked: Asked) -> Any:
    given = asked.inputs["precomputed (float64)"]
    found = among_options(np.array(given["correct_prob"]), np.array(given["wrong_prob"]), published=True)
    return {"agg_value": found.mean(), "per_example": found.tolist()}


AGGREGATION = {"closer_to_1_better": "closer_to_1", "true_better": "true_better", "prob_mean": "prob_mean"}


def ratio(asked: Asked) -> Any:
    if asked.words[-1] == "json":
        log = INPUTS["tofu_eval"]["unlearned"]["eval_log_forget.json"]
        right, wrong = values(log["avg_paraphrased_loss"]), values(log["average_perturb_loss"])
    else:
        given = asked.inputs["precomputed (float64)"]
        right, wrong = np.array(given["truth_ratio_correct_avg_loss"]), np.array(given["wrong_avg_loss"])
    scores = truth_score(right, wrong, AGGREGATION[asked.words[2]], published=not asked.variant)
    each = scores if asked.words[2] == "prob_mean" else truth_ratio(right, wrong, published=not asked.variant)
    return {"agg_value": scores.mean(), "per_example": each.tolist()}


def values(log: dict[str, Any]) -> np.ndarray:
    return np.array([log[key] for key in log])


def quality(asked: Asked) -> Any:
    if asked.words[-1] == "floor":
        return [floor(n) for n in (40, 200, 400)]
    found = forget_quality(np.array(INPUTS["ks"]["forget"]), np.array(INPUTS["ks"]["retain"]))
    if asked.words[-1] == "ks_test":
        return {"pvalue": found.p_value, "statistic": found.statistic}
    return found.p_value


def utility(asked: Asked) -> float:
    given = dict(INPUTS["utility_components"])
    return model_utility(given | ({"retain_rouge": 0.0} if asked.words[-1] == "with_zero" else {}))


def leak(asked: Asked) -> Any:
    measure = privleak if asked.words[1] == "privleak" else relative_difference
    given = INPUTS["auc"]
    return {
        "with_reference": measure(given["forget"], given["retain"], published=True),
        "default_reference_0.5": measure(given["forget"], 0.5, published=True),
    }


def strength(asked: Asked) -> Any:
    return memory(asked, extraction)


def share(asked: Asked) -> Any:
    return memory(asked, exact)


def extraction(t: AnswerTokens, published: bool) -> float:
    return extraction_strength(t.hit.numpy(), published)


def exact(t: AnswerTokens, _: bool) -> float | None:
    found = exact_memorisation(t.hit.numpy())
    return None if np.isnan(found) else found


def memory(asked: Asked, measure: Callable[[AnswerTokens, bool], float | None]) -> Any:
    dropped, low = asked.variant in ("", "eos_dropped_floor_0"), not asked.variant
    if asked.words[-1] == "designed":
        cases = [k.split(".")[1] for k in RAW if k.startswith("es.") and k.endswith("logits")]
        found = {c: answer_tokens(RAW[f"es.{c}.logits"], RAW["es.labels"], dropped)[0] for c in cases}
        return {case: measure(t, low) for case, t in found.items()}
    each = [measure(t, low) for t in tokens(*asked.words[2:], asked.dtype, dropped)]
    return {"agg_value": np.mean([e for e in each if e is not None]), "per_example": each}


def strings(asked: Asked) -> Any:
    if asked.words[-1] == "package_rouge":
        found = [rwku_rouge(right, said) for right, said in INPUTS["rouge_pairs"]]
        return [{"r": f.recall, "p": f.precision, "f": f.f1} for f in found]
    stem = asked.words[-1] == "stemmer_true"
    stored, found = RECORDS[".".join(asked.words)]["published"]["value"], []
    for (right, said), row in zip(INPUTS["rouge_pairs"], stored, strict=True):
        ours = rouge(right, said, stem)
        both = {"rouge1_f1": row["rouge1_f1"]}  # not offered
        found.append(vars(ours) | both)
    return found


def generation(asked: Asked) -> Any:
    """The stored generations, scored; the generating itself is tested in tests/workbench/test_generation.py."""
    stored = RECORDS[".".join(asked.words)]["published"]["value"]["per_example"]
    found = [rouge(row["ground_truth"], row["generation"]) for row in stored]
    each = [
        {**vars(f), "generation": row["generation"], "ground_truth": row["ground_truth"]}
        for f, row in zip(found, stored, strict=True)
    ]
    return {"agg_value": np.mean([f.rougeL_recall for f in found]), "per_example": each}


FILES = {
    "Retain": "eval_log.json",
    "Real Authors": "eval_real_author_wo_options.json",
    "Real World": "eval_real_world_wo_options.json",
    "Forget": "eval_log_forget.json",
}


def tofu_set(name: str, who: str = "unlearned") -> TofuSet:
    log = INPUTS["tofu_eval"][who][FILES[name]]
    keys = ("avg_gt_loss", "avg_paraphrased_loss", "average_perturb_loss", "rougeL_recall")
    return TofuSet(*(values(log[key]) for key in keys))


def tofu(asked: Asked) -> Any:
    if asked.words[-1] == "forget_quality":
        sets = [tofu_set("Forget", who) for who in ("unlearned", "retain")]
        found = forget_quality(*(1 / truth_ratio(s.paraphrased, s.wrong, published=True) for s in sets))
        return {
            "Forget Quality": found.p_value,
            "KS Test PVal Forget": found.p_value,
            "KS Test Forget": found.statistic,
        }
    geometric = asked.words[-1] == "aggregate_eval_stat" or asked.variant == "geometric"
    long = asked.words[-1] == "utils_py"
    shown: dict[str, float] = {}
    for name in FILES:
        how = "closer_to_1" if name == "Forget" else "true_better"
        scores = tofu_set(name).scores(name.startswith("Real "), how, geometric)
        for short, score in (("ROUGE", "rouge"), ("Probability", "probability"), ("Truth Ratio", "truth_ratio")):
            key = f"{name} {short}" if long else f"{short.replace('Probability', 'Prob.')} {name}"
            shown[key] = scores[score]
    three = [tofu_set(name) for name in ("Retain", "Real Authors", "Real World")]
    return shown | {"Model Utility": tofu_utility(*three, published=geometric)}


def whole_text(text: str, dtype: str) -> AnswerTokens:
    ids = torch.tensor([tokenizer()(text)["input_ids"]])
    labels = ids.clone()
    labels[:, 0] = IGNORED
    with torch.no_grad():
        return answer_tokens(opened("llama_retain", dtype)(ids).logits, labels)[0]


def muse_row(text: str, dtype: str) -> dict[str, float]:
    found = whole_text(text, dtype)
    lower = whole_text(text.lower(), dtype).loss
    logs = found.logprob.double().numpy()
    least = {f"Min-{int(100 * k)}%": min_k(logs, k, published=True) for k in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)}
    return {"PPL": found.loss, "PPL/lower": found.loss / lower, "PPL/zlib": zlib_ratio(found.loss, text), **least}


def muse_scores(asked: Asked) -> Any:
    rows = {
        part: [muse_row(f"{t['question']} {t['answer']}", asked.dtype) for t in INPUTS["texts"][part]]
        for part in ("forget", "holdout")
    }
    stored = RECORDS[".".join(asked.words)]["published"][asked.dtype]
    areas = {}
    for key in stored["auc"]:
        a, b = (np.array([r[key.split("_")[-1]] for r in rows[part]]) for part in ("forget", "holdout"))
        areas[key] = "NaN" if np.isnan(a).any() else 1 - auc(b, a)  # MUSE's convention is the other way round
    shown = {part: [{k: nan_word(v) for k, v in r.items()} for r in rows[part]] for part in rows}
    told = "published_eval_raises"  # a fact about their program, nothing to compute
    return {told: stored[told], "auc": areas} | {part: shown[part] for part in stored if part in shown}


def nan_word(value: float) -> Any:
    return "NaN" if np.isnan(value) else value


def muse(asked: Asked) -> Any:
    what = asked.words[2]
    if what == "privleak_scores":
        return muse_scores(asked)
    if what == "privleak":
        area = 1 - asked.inputs["auc forget_holdout_Min-40%"]
        return {f"retrain_{r}": privleak(area, 1 - r) for r in (0.4772, 0.5393)}
    if what == "stop_prefix":
        return [before(text) for text in INPUTS["knowmem_strings"]]
    return muse_overlap(asked, what)


def muse_overlap(asked: Asked, what: str) -> Any:
    """The stored responses, scored; the looks that make them are tested in tests/audits/behaviour/test_muse.py."""
    stored = RECORDS[".".join(asked.words)]["published"][asked.dtype]
    rows, each = stored["per_example"], []
    for i, row in enumerate(rows):
        right = row["gt"] if what == "verbmem" else INPUTS["texts"]["forget"][i]["answer"]
        found = rouge(right, row["response"], stem=False)
        each.append({**row, "rougeL": found.rougeL_f1, "rougeL_recall": found.rougeL_recall})
    means = {f"mean_{k}": np.mean([e[k] for e in each]) for k in ("rougeL", "rougeL_recall") if f"mean_{k}" in stored}
    return {**means, "per_example": each}


def attack(asked: Asked) -> Any:
    score = ATTACKS[".".join(asked.words[1:])]
    found = {part: np.array([score(asked, f"{part}_all", i) for i in range(9)]) for part in ("forget", "holdout")}
    return {"auc": auc(found["holdout"], found["forget"]), **{part: v.tolist() for part, v in found.items()}}


def member(asked: Asked, batch: str, i: int, published: bool = False) -> AnswerTokens:
    return tokens(asked.inputs["model"].split("/")[1], batch, asked.dtype, published)[i]


def by_loss(asked: Asked, batch: str, i: int) -> float:
    return member(asked, batch, i).loss


def by_zlib(asked: Asked, batch: str, i: int) -> float:
    return zlib_ratio(member(asked, batch, i).loss, asked.inputs["texts"][batch][i])


def by_min_k(asked: Asked, batch: str, i: int) -> float:
    logs = member(asked, batch, i, published=True).logprob.double().numpy()
    return min_k(logs, RECORDS[".".join(asked.words)]["arguments"]["k"])


def by_min_k_plus(asked: Asked, batch: str, i: int) -> float:
    t = member(asked, batch, i, published=True)
    z = standardised(*(v.double().numpy() for v in (t.logprob, t.mean, t.variance)))
    return min_k(z, RECORDS[".".join(asked.words)]["arguments"]["k"])


def by_reference(asked: Asked, batch: str, i: int) -> float:
    return member(asked, batch, i).loss - tokens("gpt2", batch, asked.dtype)[i].loss


def by_gradient(asked: Asked, batch: str, i: int) -> float:
    model = opened("llama_retain", asked.dtype)
    row = {k: BATCHES[f"{batch}.{k}"][i : i + 1] for k in ("input_ids", "attention_mask", "labels")}
    labels = row.pop("labels")
    found = answer_tokens(model(**row).logits, labels, published=True)[0]
    gradients = torch.autograd.grad(-found.logprob.mean(), list(model.parameters()))
    p = float(RECORDS[".".join(asked.words)]["arguments"]["p"])
    return float(gradient_size(gradients, p, published=not asked.variant))


ATTACKS = {
    "loss": by_loss,
    "zlib": by_zlib,
    "min_k.0.2": by_min_k,
    "min_k.0.4": by_min_k,
    "min_k_plus_plus": by_min_k_plus,
    "reference": by_reference,
    "gradnorm.p1": by_gradient,
    "gradnorm.p2": by_gradient,
}

METRICS: dict[str, Callable[[Asked], Any]] = {
    "probability": probability,
    "tokenwise_logprobs": tokenwise,
    "probability_w_options": options,
    "truth_ratio": ratio,
    "forget_quality": quality,
    "model_utility": utility,
    "privleak": leak,
    "rel_diff": leak,
    "extraction_strength": strength,
    "exact_memorization": share,
    "rouge": strings,
    "tofu": tofu,
    "muse": muse,
}


def compute(record: str, dtype: str, variant: str = "") -> Any:
    """What this project gives for a record."""
    asked = Asked(tuple(words_of(record)), dtype, variant)
    if asked.words[0] == "mia":
        return attack(asked)
    if asked.words[1:3] == ("rouge", "generation"):
        return generation(asked)
    return METRICS[asked.words[1]](asked)


def words_of(record: str) -> list[str]:
    return record.split(".")
