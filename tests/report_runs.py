"""Folders of retrain runs, written by hand."""

import json
from pathlib import Path

import numpy as np

from lottery_tf.common.files import sha256

SETTINGS = {"dataset": "digits", "model": "lenet", "width": None, "learning_rate": 0.1}
FADES = {"soft_activation": {"share": 0.5}}


def write_ticket(folder: Path, seed: int, sparsity: float = 0.75, method: str = "imp", **settings):
    """A ticket of two weights of four and two: what a report reads of it."""
    folder.mkdir(parents=True)
    masks = {"first/kernel": [[1, 0], [0, 0]], "head/kernel": [[1], [0]]}
    np.savez(folder / "masks.npz", **{name: np.array(m, bool) for name, m in masks.items()})
    (folder / "model.json").write_text("{}")
    record = {"sparsity": sparsity, "method": method, "seed": seed, "settings": settings}
    (folder / "ticket.json").write_text(json.dumps(record))
    return folder


def write_run(folder: Path, ticket: Path, recipe="vanilla", test=0.8, seed=0, tweaks=None, **more):
    """A finished retrain run; ``more`` are values of result.json or settings."""
    folder.mkdir(parents=True)
    sparsity = json.loads((ticket / "ticket.json").read_text())["sparsity"]
    result = {
        **{"recipe": recipe, "sparsity": sparsity, "sparsity_total": 0.5, "seed": seed},
        **{"test_accuracy": test, "dev_accuracy": test, "train_accuracy": 1.0, "seconds": 2.0},
    }
    config = {
        **{"command": "retrain", **SETTINGS, "seed": seed, "data_seed": seed},
        **{"ticket": str(ticket), "ticket_sha256": sha256(ticket / "ticket.json")},
        "tweaks": tweaks or {},
    }
    for name, value in more.items():
        (result if name in result else config)[name] = value
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "result.json").write_text(json.dumps(result))
    rows = [{"epoch": e, "dev_accuracy": test - 0.1 / e, "accuracy": 0.9} for e in (1, 2)]
    if "soft_activation" in (tweaks or {}):
        rows = [{**row, "soft_activation_beta": 10.0 * row["epoch"]} for row in rows]
    if "ghost_skips" in (tweaks or {}):
        rows = [{**row, "ghost_skips_alpha": 0.1 / row["epoch"]} for row in rows]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write_study(runs: Path, sparsities=(0.75,)) -> Path:
    """Three seeds: vanilla 80, 82, 84 %, tost 82, 83, 87 %."""
    for seed in range(3):
        for number, sparsity in enumerate(sparsities):
            name = runs / f"seed_{seed}"
            ticket = write_ticket(name / "find" / "tickets" / f"round_0{number}", seed, sparsity)
            lower = 0.1 * number
            vanilla, tost = ((80, 82, 84)[seed] / 100, (82, 83, 87)[seed] / 100)
            write_run(name / f"{number}_vanilla", ticket, test=vanilla - lower, seed=seed)
            more = {"seed": seed, "tweaks": FADES | {"ghost_skips": {"alpha": 0.1}}}
            write_run(name / f"{number}_tost", ticket, "tost", tost - lower, **more)
    return runs
