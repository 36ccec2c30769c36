"""What an engine's processes have in common, wherever they are."""

import multiprocessing
import multiprocessing.connection
import os
import threading
from multiprocessing.process import BaseProcess
from typing import cast

# Keras keeps some 60 MB of each training: a process is replaced after so many.
MOST_CALLS = 10


def environment(threads: int, gpus_per_trial: float) -> dict[str, str]:
    """The variables that TensorFlow reads when it starts in a process of so many threads."""
    found = {
        "TF_NUM_INTRAOP_THREADS": str(threads),
        "TF_NUM_INTEROP_THREADS": str(threads),
    }
    if not gpus_per_trial:  # else each process takes all memory of all GPUs
        found["CUDA_VISIBLE_DEVICES"] = "-1"
    elif gpus_per_trial < 1:  # of trials that share a GPU none may take all of its memory
        found["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
    return found


def end_with_parent() -> None:
    """Ends this process when the one that started it is gone, however that ended: whoever starts
    the sweep again would find a second writer in its folders."""

    def watch() -> None:
        parent = cast(BaseProcess, multiprocessing.parent_process())  # a started process has one
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
