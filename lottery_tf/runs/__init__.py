"""The stages of an experiment as resumable runs in folders: find, retrain, export.

A stage that is finished is never computed again, one that was interrupted goes on, and a folder
that belongs to another configuration is refused. What the files hold is in docs/files.md.
"""

from typing import Any

Row = dict[str, Any]  # of a run's JSON files
