"""The app works on a machine without torch and without any model library."""

import os
import subprocess
import sys

import pytest

from tests.app.conftest import PAGES, ROOT

CODE = """
import sys
for name in ("torch", "transformers", "transformer_lens", "nnsight", "sae_lens", "accelerate", "peft"):
    sys.modules[name] = None
from streamlit.testing.v1 import AppTest
for page in {pages}:
    at = AppTest.from_file("app.py", default_timeout=120)
    at.switch_page(f"workbench/pages/{{page}}.py")
    at.run()
    assert not at.exception, (page, [e.message for e in at.exception])
    assert not at.error, page
"""


@pytest.mark.parametrize("pages", [PAGES])
def test_every_page_without_torch(full, pages):
    environment = {**os.environ, "WORKBENCH_RUNS": str(full), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", CODE.format(pages=list(pages))]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
