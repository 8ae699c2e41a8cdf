"""How fast are the probes, next to what they must do or to how others do it? Every bench of a probe, in one run.

    python -m bench.probes [--shape llama-2-7b]

Causal tracing beside TransformerLens's one-by-one patching and the published ROME procedure; the concept-vector scan
beside the bare matrix product; expert attribution beside a plain forward pass; linear probes beside scikit-learn. CPU
seconds, ratios and peak memory. `--shape llama-2-7b` makes a random-weight model of that size where a bench has one.
"""

import argparse
import subprocess
import sys

BENCHES = {"causal_trace": True, "concept_vectors": True, "expert_attribution": False, "linear_probes": False}
"""Name -> whether it knows other shapes; each runs in a process of its own, so that none warms up another."""


def main() -> None:
    """Run them all."""
    parser = argparse.ArgumentParser(description="measure the probes")
    parser.add_argument("--shape", choices=("llama-2-7b",))
    shape = parser.parse_args().shape
    failed = []
    for name, shaped in BENCHES.items():
        print(f"== {name}", flush=True)
        more = ["--shape", shape] if shape and shaped else []
        if subprocess.run([sys.executable, "-m", f"bench.{name}", *more], check=False).returncode:
            failed.append(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
