"""The stages of an experiment as resumable runs in folders: find, retrain, export.

A finished stage is never computed again, and an interrupted one goes on. A folder of another
configuration is refused. docs/files.md describes the files.
"""

from typing import Any

Row = dict[str, Any]  # an object in a run's JSON files
