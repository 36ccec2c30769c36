"""What an engine's processes have in common, wherever they are."""

# Keras keeps some 60 MB of each training: a process is replaced after so many.
MOST_CALLS = 10


def environment(threads: int, gpus_per_trial: float) -> dict[str, str]:
    """The variables that TensorFlow reads when it starts in a process of so many threads."""
    found = {
        "TF_NUM_INTRAOP_THREADS": str(threads),
        "TF_NUM_INTEROP_THREADS": str(threads),
    }
    if 0 < gpus_per_trial < 1:  # of trials that share a GPU none may take all of its memory
        found["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
    return found
