"""The errors that the command line prints as one sentence."""

import contextlib
from collections.abc import Iterator


class UsageError(ValueError):
    """A mistake of the user's. One sentence says what was expected, what came and what to do.

    The command line prints it without a traceback and exits with code 2.
    """

    # AutoGraph then passes it on as it is when tracing raises it, not as a StagingError.
    ag_pass_through = True


class WorkFailed(RuntimeError):
    """Work that failed and whose traceback does not help; the sentence says where to look.

    The command line exits with code 1.
    """


@contextlib.contextmanager
def mistakes_at(where: str) -> Iterator[None]:
    """Adds the place, such as ``snip, round 3``, in front of a ``UsageError`` of the block."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
