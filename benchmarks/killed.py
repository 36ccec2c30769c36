"""Kills a run of find and one of retrain at random moments until they end, and compares their bits.

    python benchmarks/killed.py --moments=20 --out=benchmarks/results/killed.txt
    python benchmarks/killed.py --only=retrain --out=benchmarks/results/killed_retrain.txt

Each is begun with --deterministic, killed (SIGKILL, every fourth time SIGTERM) when it has run for
a random time, begun again, and so on; the last time it is left alone. Masks, weights, metrics and
results have to be those of a run that was left alone from the beginning.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lottery_tf.cli.main import TO_BE_REQUEUED
from lottery_tf.common.files import read_json_lines
from lottery_tf.masks.masks import read_arrays
from lottery_tf.runs.records import RESULT, read_result

COMMAND = [sys.executable, "-m", "lottery_tf"]
DATA = ["--dataset=digits", "--batch_size=8", "--nojit_compile", "--steps_per_execution=20"]
FIND = ["find", *DATA, "--model=resnet8_half", "--train_for=3ep", "--rewind_to=100it"]
RETRAIN = ["retrain", "--recipe=tost,distillation", "--train_for=5ep"]
SURE = ["--deterministic", "--checkpoint_every=0.05min"]


def run(words: list[str], seconds: float | None = None, number: int = signal.SIGKILL) -> int:
    """Runs a command, for so many seconds at most; returns its exit code."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen([*COMMAND, *words], stdout=said, stderr=said)
        code = ended(process, seconds, number)
        if code not in (0, TO_BE_REQUEUED, -signal.SIGKILL):
            said.seek(0)
            print(said.read().decode(errors="replace"), file=sys.stderr)
    return code


def ended(process: subprocess.Popen, seconds: float | None, number: int) -> int:
    """The exit code of a process that is told ``number`` after so many seconds."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
        return process.wait()


def killed(words: list[str], moments: int, longest: float, rng: random.Random) -> list[int]:
    """Kills a command at most so many times, until it ends; returns the exit codes."""
    codes = []
    while len(codes) < moments and (not codes or codes[-1]):
        number = signal.SIGTERM if len(codes) % 4 == 3 else signal.SIGKILL
        # Sooner it has not begun to train.
        codes.append(run(words, rng.uniform(0.5 * longest, longest), number))
    if codes[-1]:
        codes.append(run(words))
    return codes


def content(run: Path) -> dict[str, object]:
    """What has to be the same: all numbers but times and the sums of SavedModels' files."""
    found: dict[str, object] = {}
    for file in sorted(run.rglob("*.npz")):
        for name, array in read_arrays(file).items():
            found[f"{file.relative_to(run)}:{name}"] = array.tobytes()
    rows = read_json_lines(run / "metrics.jsonl")
    rows += [read_result(run)] if (run / RESULT).exists() else []
    for number, row in enumerate(rows):
        for name in row.keys() - {"seconds", "ticket", "dense_model_sha256"}:
            found[f"row {number}: {name}"] = row[name]
    for file in sorted(run.rglob("variables.data*")):
        found[str(file.relative_to(run))] = file.read_bytes()
    return found


def compare(name: str, words: list[str], folder: Path, moments: int, seed: int) -> list[str]:
    """What is said of a command that is left alone, and of as many as it takes to be killed at
    ``moments`` moments in all, each until it ends."""
    whole, rng = folder / f"{name}_whole", random.Random(seed)
    begun = time.perf_counter()
    assert run([*words, f"--out={whole}"]) == 0
    alone = time.perf_counter() - begun
    longest, mine, left = 0.6 * alone, content(whole), moments
    said = [
        f"{name}: {' '.join(words)}",
        f"  left alone {alone:.0f} s; killed after {0.5 * longest:.0f} to {longest:.0f} s each:",
    ]
    while left:
        other = folder / f"{name}_killed_{left}"
        begun = time.perf_counter()
        codes = killed([*words, f"--out={other}"], left, longest, rng)
        assert codes[-1] == 0, codes
        left -= len(codes) - 1
        theirs = content(other)
        differing = [key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key)]
        said.append(
            f"  {len(codes) - 1} times, {time.perf_counter() - begun:.0f} s in all, exit codes "
            f"{codes}: of {len(mine)} arrays and numbers {len(differing)} differ"
        )
        print(said[-1], flush=True)
        assert not differing, (said[-1], differing[:3])
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("find", "retrain"))
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        find = [*FIND, *SURE, "--rounds=3"]
        only = f" --only={given.only}" if given.only else ""
        words = f"--moments={given.moments} --seed={given.seed}{only}"
        said = [f"python benchmarks/killed.py {words}"]
        if given.only == "retrain":
            assert run([*find, f"--out={folder / 'find_whole'}"]) == 0
        else:
            said += compare("find", find, folder, given.moments, given.seed)
        if given.only != "find":
            ticket = folder / "find_whole" / "tickets" / "round_02"
            retrain = [*RETRAIN, *SURE, f"--ticket={ticket}"]
            said += compare("retrain", retrain, folder, given.moments, given.seed)
        text = "\n".join(said).replace(str(folder), "FOLDER")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
