"""What Linux says of this process's memory; every bench measures its peak the same way."""

from collections.abc import Callable
from pathlib import Path


def peak_of(work: Callable[[], object]) -> float:
    """Megabytes that some work needs at most, beyond what the process holds already."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak that importing and loading have left
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(field: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024
