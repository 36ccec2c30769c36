"""Masked training steps a second: lottery_tf, tfmot and torch, interleaved.

    python benchmarks/masked_steps.py --data_dir=DIR --torch_python=PATH

DIR holds the four IDX files of Fashion-MNIST, PATH is the Python of an environment with torch and
numpy. README.md beside this file says what is compared. Writes masked_steps.json and
masked_steps.md; about 5 minutes on two idle cores.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from contenders import BACKENDS, BATCH_SIZE, CONTENDERS, LEARNING_RATE, STEPS_PER_EPOCH, TORCH

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data_dir", required=True, help="folder of Fashion-MNIST's IDX files")
    parser.add_argument("--torch_python", help="Python with torch; default: no torch contenders")
    usual = [name for name in CONTENDERS if name not in BACKENDS]
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=usual)
    parser.add_argument("--repeats", type=int, default=9, help="of each contender")
    parser.add_argument("--epochs", type=int, default=3, help="of 900 steps, in a repeat")
    parser.add_argument("--sparsity", type=float, default=0.9, help="of the hidden layers' kernels")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder to write to")
    given = parser.parse_args()
    names = [name for name in given.contenders if given.torch_python or name not in TORCH]
    if given.repeats < 1 or given.epochs < 1 or not 0 <= given.sparsity < 1 or not names:
        parser.error(
            "expected --repeats and --epochs of 1 or more, --sparsity in [0, 1), and "
            "--torch_python where only torch contenders are wanted"
        )

    steps = given.epochs * STEPS_PER_EPOCH
    workers = [Worker(name, given) for name in names]
    try:
        for worker in workers:
            worker.start()
        for i in range(given.repeats):
            shift = i % len(workers)  # each contender goes first in its turn
            for worker in workers[shift:] + workers[:shift]:
                worker.repeat(steps)
                print(
                    f"{i + 1}/{given.repeats} {worker.name}: {worker.rates[-1]:.0f} steps/s",
                    flush=True,
                )
        found = {worker.name: worker.finish() for worker in workers}
    finally:
        for worker in workers:
            worker.kill()

    rates = {name: contender["steps_per_second"] for name, contender in found.items()}
    first, *others = names
    report = {
        "job": {
            "model": "lenet_300_100",
            "dataset": "Fashion-MNIST",
            "optimizer": "adam",
            "learning_rate": LEARNING_RATE,
            "batch_size": BATCH_SIZE,
            "sparsity": given.sparsity,
            "steps_per_repeat": steps,
            "repeats": given.repeats,
        },
        "machine": {"cpu": cpu_model(), "cores": len(os.sched_getaffinity(0))},
        "contenders": found,
        "ratios": {f"{first} / {name}": ratio(rates[first], rates[name]) for name in others},
    }
    given.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    (given.out / "masked_steps.json").write_text(text, encoding="utf-8")
    (given.out / "masked_steps.md").write_text(table(report), encoding="utf-8")
    print(table(report), end="")


class Worker:
    """A contender in a process of its own, which waits on a pipe while the others run.

    Args:
      name: of CONTENDERS.
      given: the command line.
    """

    def __init__(self, name: str, given: argparse.Namespace):
        self.name, self.rates, self.cpu, self.others = name, [], [], []
        python = given.torch_python if name in TORCH else sys.executable
        self.command = [python, HERE / "contenders.py", name, given.data_dir, str(given.sparsity)]
        self.process = None

    def start(self) -> None:
        """Builds it, and warms up: two epochs, the first of which compiles."""
        pipe = subprocess.PIPE
        backend = {"KERAS_BACKEND": BACKENDS.get(self.name, "tensorflow")}
        self.process = subprocess.Popen(
            self.command, stdin=pipe, stdout=pipe, text=True, env={**os.environ, **backend}
        )
        self.about = self._answer()
        for _ in range(2):
            self._ask(STEPS_PER_EPOCH)
        print(f"{self.name} is warm", flush=True)

    def repeat(self, steps: int) -> None:
        """Trains and keeps the figures."""
        busy = busy_seconds()
        took = self._ask(steps)
        elsewhere = max(0.0, busy_seconds() - busy - took["cpu_seconds"])
        self.rates.append(steps / took["seconds"])
        self.cpu.append(1000 * took["cpu_seconds"] / steps)
        self.others.append(elsewhere / took["seconds"] / os.cpu_count())

    def finish(self) -> dict:
        """Ends the process; returns all that is known of the contender."""
        trained = self._ask("finish")
        return {
            **self.about,
            "median_steps_per_second": round(statistics.median(self.rates), 1),
            "steps_per_second": [round(rate, 1) for rate in self.rates],
            "cpu_milliseconds_per_step": [round(cpu, 3) for cpu in self.cpu],
            "machine_used_by_others": [round(share, 3) for share in self.others],
            **trained,
        }

    def kill(self) -> None:
        """Ends the process if it runs."""
        if self.process is not None:
            self.process.kill()

    def _ask(self, line: object) -> dict:
        print(line, file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"The contender {self.name} ended early; what it said is above.")
        return json.loads(line)


def ratio(mine: Sequence[float], theirs: Sequence[float]) -> dict:
    """Repeat by repeat, so that what slows the machine for a while slows both."""
    pairs = [a / b for a, b in zip(mine, theirs, strict=True)]
    return {
        "median": round(statistics.median(pairs), 3),
        "lowest": round(min(pairs), 3),
        "highest": round(max(pairs), 3),
    }


def table(report: dict) -> str:
    """The report as Markdown."""
    job, machine, found = report["job"], report["machine"], report["contenders"]
    first = next(iter(found))
    shares = [share for each in found.values() for share in each["machine_used_by_others"]]
    versions = {
        package: version
        for each in found.values()
        for package, version in each["versions"].items()
        if package not in ("python", "numpy")
    }
    lines = [
        f"Masked training steps a second: {job['model']} on {job['dataset']}, {job['optimizer']}, "
        f"batch {job['batch_size']}, {100 * job['sparsity']:g} % of the hidden layers' weights "
        "pruned.",
        "",
        f"| contender | steps/s, median | lowest–highest | CPU ms/step | {first} is × faster | "
        "lowest–highest | test accuracy |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, contender in found.items():
        rates = contender["steps_per_second"]
        times = report["ratios"].get(f"{first} / {name}")
        lines.append(
            f"| {name} | {contender['median_steps_per_second']:.0f} "
            f"| {min(rates):.0f}–{max(rates):.0f} "
            f"| {statistics.median(contender['cpu_milliseconds_per_step']):.2f} "
            + (
                f"| {times['median']:.2f} | {times['lowest']:.2f}–{times['highest']:.2f} "
                if times
                else "| | "
            )
            + f"| {100 * contender['test_accuracy']:.1f} % |"
        )
    lines += [
        "",
        f"{job['repeats']} repeats of {job['steps_per_repeat']:,} steps each, interleaved; the "
        "ratio is the median over the repeats. Accuracy shows that all train; it is not compared.",
        "",
        f"{machine['cores']} cores, {machine['cpu']}. Other processes used "
        f"{100 * statistics.median(shares):.0f} % of the machine (median of the repeats; at most "
        f"{100 * max(shares):.0f} %). {', '.join(f'{k} {v}' for k, v in versions.items())}.",
    ]
    if statistics.median(shares) > 0.1:
        lines += [
            "",
            "**The machine was busy with other work: measure again on an idle one.** torch's "
            "threads in particular wait for each other, and lose most when a core is shared.",
        ]
    return "\n".join(lines) + "\n"


def busy_seconds() -> float:
    """CPU seconds that all processes of the machine have used so far."""
    user, nice, system, _, _, irq, softirq, *_ = map(
        int, Path("/proc/stat").read_text().partition("\n")[0].split()[1:]
    )
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def cpu_model() -> str:
    """As /proc/cpuinfo has it, with the widest vector instructions."""
    fields = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    flags = fields.get("flags", "").split()
    widest = next((flag for flag in ("avx512f", "avx2", "avx") if flag in flags), "no AVX")
    return f"{fields.get('model name', 'unknown')} ({widest})"


if __name__ == "__main__":
    main()
