"""Exporting the finished model of a retrain run."""

from collections.abc import Sequence
from pathlib import Path

from lottery_tf.data import load
from lottery_tf.errors import UsageError
from lottery_tf.experiment import Experiment
from lottery_tf.exporting import MAX_DIFFERENCE, REPORT, write_exports
from lottery_tf.files import read_json, sha256
from lottery_tf.runs import load_saved_model, read_config
from lottery_tf.stages import Row


def export_run(
    run: Path,
    out: Path,
    formats: Sequence[str] = ("saved_model",),
    tolerance: float = MAX_DIFFERENCE,
) -> Row:
    """Exports the finished model of a retrain run and proves it on the run's test images.

    Args:
      run: the folder of a finished retrain run.
      out: the folder to write to.
      formats: names in ``lottery_tf.exporting.FORMATS``.
      tolerance: the largest difference to the model's outputs that is allowed.

    Returns:
      What ``export.json`` holds.

    Raises:
      UsageError: if ``run`` is no finished retrain run.
      RuntimeError: if an export does not compute what the model computes; nothing is left then.
    """
    settings = read_config(run)
    if not (run / "result.json").is_file():
        raise UsageError(
            f"Expected a finished retrain run (with result.json) at {run}; it has none: run "
            "`lottery-tf retrain` to its end first."
        )
    source = {"run": str(run), "result_sha256": sha256(run / "result.json")}
    if (out / REPORT).is_file():
        facts = read_json(out / REPORT)
        theirs = {each.get("source", {}).get("result_sha256") for each in facts.values()}
        if facts.keys() != set(formats) or theirs != {source["result_sha256"]}:
            raise UsageError(
                f"Expected --out to be new or this export's; {out} holds another run's, or other "
                f"formats ({', '.join(facts)}): choose another --out."
            )
        return facts
    model = load_saved_model(run / "model")
    data = load(Experiment.restore(settings).data)
    preprocessing = {
        "dataset": data.name,
        "input": "(pixels - mean) / std, pixels as the dataset has them, float32",
        "mean": list(data.mean),
        "std": list(data.std),
    }
    return write_exports(
        model,
        out,
        formats,
        images=data.normalise(data.test.images),
        labels=data.test.labels,
        preprocessing=preprocessing,
        source=source,
        tolerance=tolerance,
    )
