"""How long the app takes: the Runs page over 200 runs, and a causal trace of 32 layers by 64 tokens.

    python -m bench.app              needs Chromium for the times in the browser; without one, the server's alone

Read it as: `server` is one run of the page's script (AppTest, the second run, imports done). `switch` is from clicking
the page's link in the open app until its picture is drawn; `again` from asking for the address in a new tab of a
browser that has opened it before; `first` the same in a browser with nothing cached, which fetches and compiles
Streamlit and plotly. The last row is the control: a page of Streamlit that is not ours and draws one line, opened in
turn with the others, so below what `first` takes there no page of ours can go. The best of `REPEATS`; `_cpu` is the CPU
time in it (of the browser its main thread), which a busy machine lengthens less (`load`).
Does not show: the first start of the server, which imports pandas, plotly and streamlit once.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from streamlit.testing.v1 import AppTest

from bench.app_server import CHROMIUM, ROOT, serving
from workbench.evidence import AuditReport, Estimate, Evidence, Role
from workbench.store import RunFolder, write_json
from workbench.trace import Trace

RUNS, LAYERS, TOKENS, FACTS = 200, 32, 64, 8
REPEATS = 3
LIMIT = 2.0
"""Seconds a page may take."""


def report(number: int) -> AuditReport:
    """A report with 18 claims, as an audit writes."""
    some = Estimate(mean=0.1, low=0.0, high=0.2, n=80, clusters=16)
    evidence = tuple(
        Evidence(
            claim=f"claim {i}", question=f"Question {i}?", axis="outputs", rung=1 + i % 5, metric="share of facts",
            value=some, before=some, reference=some, floor=some, difference=some, compared_with="reference",
            margin=0.1, detectable=0.05, status="PASS",
        )
        for i in range(18)
    )  # fmt: skip
    role = Role(name=f"model-{number}", digest="0" * 64, path=f"runs/model-{number}")
    return AuditReport(
        concept=f"demo:{number % 3}", concept_digest="0" * 64, counts={"forget": 80}, level=number % 6,
        roles={"checkpoint": role, "base": role}, capped_by="", utility="intact", utility_reason="", evidence=evidence,
        options={}, margins_digest="0", environment={}, made_at="2026-01-01T00:00:00Z", run_id="0",
    )  # fmt: skip


def trace(seed: int) -> Trace:
    """A causal trace by layer and token, of every kind of state."""
    sites = tuple(f"L{layer}.{part}" for part in ("resid_post", "mlp_out", "attn_out") for layer in range(LAYERS))
    values = np.random.default_rng(seed).normal(0, 0.3, (len(sites), TOKENS, FACTS))
    labels = {"site": sites, "token": tuple(f"{i}: word{i}" for i in range(TOKENS))}
    facts = tuple(f"{i}: Fact {i} is" for i in range(FACTS))
    return Trace("causal_trace", values, ("site", "token", "fact"), "probability", {**labels, "fact": facts})


def store(root: Path) -> Path:
    """200 audits, the last of them with traces."""
    for number in range(RUNS):
        run = RunFolder.claim(root / f"audit-{number:03}", {"verb": "audit", "number": number})
        write_json(run.path / "report.json", report(number).model_dump(mode="json"))
        if number == RUNS - 1:
            for seed, role in enumerate(("base", "checkpoint", "reference")):
                trace(seed).save(run.path / "traces" / role / "causal_trace.forget")
        run.write_manifest("success")
    return root


def server_seconds(page: str, **url: str) -> tuple[float, float]:
    """One run of the page's script, once everything is imported and cached, and the CPU time of it."""
    made = AppTest.from_file(str(ROOT / "app.py"), default_timeout=300)
    for name, value in url.items():
        made.query_params[name] = value
    made.switch_page(f"workbench/pages/{page}.py")
    made.run()
    start, cpu = time.perf_counter(), time.process_time()
    made.run()
    assert not made.exception, made.exception
    return time.perf_counter() - start, time.process_time() - cpu


Asking = tuple[str, str]
"""An address, and the JavaScript that is true once its picture is drawn."""

TABLE = "document.querySelectorAll('[data-testid=stDataFrame] canvas').length > 0"
MAP = "document.querySelectorAll('.js-plotly-plot .heatmaplayer image').length > 0"
LINE = "document.querySelectorAll('.js-plotly-plot .scatterlayer path').length > 0"

BARE = """
import plotly.graph_objects as go
import streamlit as st

st.plotly_chart(go.Figure(go.Scatter(y=[1, 2, 3])))
"""
"""The control."""


def browser_seconds(rows: Mapping[str, Asking]) -> dict[str, dict[str, float]]:
    """Row -> what -> seconds, the best of a few rounds in which every row has its turn."""
    best: dict[str, dict[str, float]] = {name: {} for name in rows}
    if CHROMIUM is None:
        return best
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        for _ in range(REPEATS):
            for name, (address, ready) in rows.items():
                with tempfile.TemporaryDirectory() as profile:  # a browser that has opened nothing yet
                    browser = playwright.chromium.launch_persistent_context(
                        profile,
                        executable_path=CHROMIUM,
                        args=["--no-sandbox"],
                        viewport={"width": 1280, "height": 900},
                    )
                    for what, (wall, cpu) in _one_browser(browser, address, ready).items():
                        best[name][f"{what}_s"] = min(best[name].get(f"{what}_s", wall), wall)
                        best[name][f"{what}_cpu_s"] = min(best[name].get(f"{what}_cpu_s", cpu), cpu)
                    browser.close()
    return {name: {what: round(value, 2) for what, value in one.items()} for name, one in best.items()}


def _one_browser(browser: Any, address: str, ready: str) -> dict[str, tuple[float, float]]:
    """Opened first; again in a third tab, when the browser has kept the compiled code; switched to in the open app."""
    found = {}
    for what in ("first", "second", "again"):
        page = browser.new_page()
        found[what] = _timed(page, partial(page.goto, address), ready)
        page.wait_for_timeout(1500)  # what was compiled is written behind
        page.close()
    page = browser.new_page()
    place, _, query = address.rpartition("/")[2].partition("?")
    if place:
        page.goto(f"{address.rpartition('/')[0]}/report?{query}")
        page.wait_for_selector("[data-testid=stDownloadButton]", timeout=120_000)
        page.wait_for_selector("[data-testid=stStatusWidget]", state="detached", timeout=120_000)
        link = f"[data-testid=stSidebarNavLink][href*='/{place}']"
        found["switch"] = _timed(page, partial(page.click, link), ready)
    page.close()
    return {what: value for what, value in found.items() if what != "second"}


def _timed(page: Any, ask: Callable[[], object], ready: str) -> tuple[float, float]:
    """Seconds until the page is drawn, and the main thread's CPU time in them."""
    devtools = page.context.new_cdp_session(page)
    devtools.send("Performance.enable", {"timeDomain": "threadTicks"})

    def spent() -> float:
        told = devtools.send("Performance.getMetrics")["metrics"]
        return float(next(metric["value"] for metric in told if metric["name"] == "TaskDuration"))

    before, start = spent(), time.perf_counter()
    ask()
    page.wait_for_function(ready, timeout=120_000, polling=20)
    wall = time.perf_counter() - start
    after = spent()
    return wall, after - before if after > before else after


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        root, bare = store(Path(folder) / "runs"), Path(folder) / "bare.py"
        bare.write_text(BARE)
        os.environ["WORKBENCH_RUNS"] = str(root)
        os.chdir(ROOT)
        run = f"audit-{RUNS - 1:03}"
        inside = {"runs": server_seconds("runs"), "trace": server_seconds("trace", run=run)}
        with serving(root) as ours, serving(root, bare) as control:
            names = {
                f"Runs page, {RUNS} runs": ("runs", f"{ours}runs?run={run}", TABLE),
                f"Causal trace, {LAYERS} layers x {TOKENS} tokens": ("trace", f"{ours}trace?run={run}", MAP),
                "Control: Streamlit with one line": ("", control, LINE),
            }
            outside = browser_seconds({name: (address, ready) for name, (_, address, ready) in names.items()})
        for name, (page, _, _) in names.items():
            line: dict[str, Any] = {"what": name} | ({"limit_s": LIMIT} if page else {})
            if page:
                line |= {"server_s": round(inside[page][0], 2), "server_cpu_s": round(inside[page][1], 2)}
            sys.stdout.write(json.dumps(line | outside[name] | {"load": round(os.getloadavg()[0], 1)}) + "\n")


if __name__ == "__main__":
    main()
