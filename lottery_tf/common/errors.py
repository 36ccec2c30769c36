"""The errors that the command line tells in a sentence."""

import contextlib
from collections.abc import Iterator


class UsageError(ValueError):
    """A mistake of the user's: one sentence of what was expected, what came and what to do.

    The command line prints it without a traceback and exits with code 2.
    """

    # Raised while a training step is traced it comes through as it is, not as a StagingError.
    ag_pass_through = True


class WorkFailed(RuntimeError):
    """Work that failed where its traceback says nothing; the sentence says where to look.

    The command line exits with code 1.
    """


@contextlib.contextmanager
def mistakes_at(where: str) -> Iterator[None]:
    """Puts before what a ``UsageError`` of the block says where it came up: ``snip, round 3``."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
