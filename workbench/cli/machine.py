"""Getting torch ready: the number of threads and the device, checked before a model is opened."""

import os

from workbench.errors import BadInput

THREADS = "WORKBENCH_THREADS"


def prepare_torch(device: str = "cpu") -> None:
    """Import torch, set its threads and try the device.

    Raises:
        BadInput: for a device this machine does not have, or a number of threads that is none.
    """
    threads = thread_count()
    import torch

    torch.set_num_threads(threads)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        has = ", ".join(
            [
                "cpu",
                *(["cuda"] if torch.cuda.is_available() else []),
                *(["mps"] if torch.backends.mps.is_available() else []),
            ]
        )
        raise BadInput(
            f"Cannot use the device {device!r}: {str(error).splitlines()[0][:150]}. This machine has: {has}"
        ) from None


def thread_count() -> int:
    """CPU threads to compute with: 1 unless WORKBENCH_THREADS says otherwise.

    One, because the models one tries first are tiny: handing their small matrices to a second thread costs 10 to 30
    times what computing them does. For a model of a billion parameters on a CPU set it to the number of cores.

    Raises:
        BadInput: when the variable holds no positive number.
    """
    text = os.environ.get(THREADS, "1")
    if not text.isdecimal() or int(text) < 1:
        raise BadInput(f"{THREADS} is {text!r}; it must be a whole number from 1, for instance {THREADS}=4")
    return int(text)
