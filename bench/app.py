"""How long the app takes: the Runs page over 200 runs, and a causal trace of 32 layers by 64 tokens.

    python -m bench.app              needs Chromium for the times in the browser; without one, the server's alone

Read it as: `server` is one run of the page's script (AppTest, the second run, imports done). `switch` is from clicking
the page's link in the open app until its picture is drawn; `open` from asking for the address in a fresh browser with
nothing cached, which fetches and compiles Streamlit and plotly first. The best of `REPEATS`; `_cpu` is the CPU time in
it (of the browser its main thread), which a busy machine lengthens less (`load`).
Does not show: the first start of the server, which imports pandas, plotly and streamlit once.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from streamlit.testing.v1 import AppTest

from workbench.cli.view import SETTINGS, _free
from workbench.evidence import AuditReport, Estimate, Evidence, Role
from workbench.store import RunFolder, write_json
from workbench.trace import Trace

ROOT = Path(__file__).parents[1]
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


def browser_seconds(address: str, path: str, ready: str) -> dict[str, float]:
    """Opening a page in a fresh browser, and switching to it in the open app, until it is drawn; the best of a few."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        return {}
    from playwright.sync_api import sync_playwright

    best: dict[str, float] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for _ in range(REPEATS):
            page: Any = browser.new_page(viewport={"width": 1280, "height": 900})
            name, _, query = path.partition("?")
            link = f"[data-testid=stSidebarNavLink][href*='/{name}']"
            for what, ask in (("open", partial(page.goto, address + path)), ("switch", partial(page.click, link))):
                if what == "switch":  # from another page of the open app
                    page.goto(f"{address}report?{query}")
                    page.wait_for_selector("[data-testid=stDownloadButton]", timeout=120_000)
                    page.wait_for_selector("[data-testid=stStatusWidget]", state="detached", timeout=120_000)
                wall, cpu = _timed(page, ask, ready)
                best[f"{what}_s"] = min(best.get(f"{what}_s", wall), wall)
                best[f"{what}_cpu_s"] = min(best.get(f"{what}_cpu_s", cpu), cpu)
            page.close()
        browser.close()
    return {name: round(value, 2) for name, value in best.items()}


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
        root = store(Path(folder))
        os.environ["WORKBENCH_RUNS"] = str(root)
        os.chdir(ROOT)
        run = f"audit-{RUNS - 1:03}"
        port = _free(None)
        command = [sys.executable, "-m", "streamlit", "run", str(ROOT / "app.py"), f"--server.port={port}", *SETTINGS]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        address = f"http://127.0.0.1:{port}/"
        try:
            while True:
                try:
                    urllib.request.urlopen(f"{address}_stcore/health", timeout=1)
                    break
                except OSError:
                    time.sleep(0.2)
            table = "document.querySelectorAll('[data-testid=stDataFrame] canvas').length > 0"
            chart = "document.querySelectorAll('.js-plotly-plot .heatmaplayer image').length > 0"
            rows = {
                f"Runs page, {RUNS} runs": ("runs", table),
                f"Causal trace, {LAYERS} layers x {TOKENS} tokens": (f"trace?run={run}", chart),
            }
            for name, (path, ready) in rows.items():
                page, _, query = path.partition("?")
                url = {"run": query.partition("=")[2]} if query else {}
                inside, outside = server_seconds(page, **url), browser_seconds(address, path, ready)
                line = {
                    "what": name,
                    "limit_s": LIMIT,
                    "server_s": round(inside[0], 2),
                    "server_cpu_s": round(inside[1], 2),
                    "load": round(os.getloadavg()[0], 1),
                }
                line |= outside
                sys.stdout.write(json.dumps(line) + "\n")
                sys.stdout.flush()
        finally:
            process.terminate()


if __name__ == "__main__":
    main()
