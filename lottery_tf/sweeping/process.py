"""What the processes of all engines have in common."""

import multiprocessing
import multiprocessing.connection
import os
import threading
from multiprocessing.process import BaseProcess
from typing import cast

# Keras keeps some 60 MB of each training, so a process is replaced after this many.
MOST_CALLS = 10


def environment(threads: int, gpus_per_trial: float) -> dict[str, str]:
    """The environment variables for TensorFlow in a process with so many threads."""
    found = {
        "TF_NUM_INTRAOP_THREADS": str(threads),
        "TF_NUM_INTEROP_THREADS": str(threads),
    }
    if not gpus_per_trial:  # else each process takes all memory of all GPUs
        found["CUDA_VISIBLE_DEVICES"] = "-1"
    elif gpus_per_trial < 1:  # trials that share a GPU have to share its memory
        found["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
    return found


def end_with_parent() -> None:
    """Ends this process when the one that started it is gone, however it ended.

    Else a sweep that is started again would have two writers in its folders.
    """

    def watch() -> None:
        parent = cast(BaseProcess, multiprocessing.parent_process())  # a started process has one
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
