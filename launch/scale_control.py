"""What the scale of a ticket's weights alone gains, beside the tweaks of the standing study.

    python launch/scale_control.py runs/standing --runs=runs/scale_control \\
        --out=docs/results/standing/scale_control.json

Pruning at random leaves a unit a share d of its inputs, so that its sum shrinks by √d. The tickets
are those of LeNet-300-100 by ERK in a finished sweep of flags/standing.yaml. The weights of each
layer are divided by its √d, and the ticket is retrained without any tweak. The rate is the one of
those below that is best on the dev images of the seeds that choose there. Only that one is tested.
"""

import argparse
import dataclasses
import statistics
from pathlib import Path

from lottery_tf.common.files import write_json
from lottery_tf.common.stderr import quiet_start
from lottery_tf.runs.experiment import experiment_of
from lottery_tf.runs.find import round_folder
from lottery_tf.runs.retrain import retrain_ticket
from lottery_tf.tickets.ticket import Ticket
from lottery_tf.tweaks.recipe import Recipe

RATES = (0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
CHOOSING = (20, 21)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sweep", type=Path, help="folder of the finished sweep")
    parser.add_argument("--runs", type=Path, required=True, help="folder for the retrainings")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    args = parser.parse_args()
    with quiet_start():
        tickets = {}
        for path in sorted((args.sweep / "find").glob("erk_*")):
            ticket = Ticket.load(round_folder(path, 1))
            if ticket.info["model"] == "lenet_300_100":
                seed = ticket.info["seed"]
                tickets[seed] = args.runs / f"ticket_{seed}"
                scaled(ticket).save(tickets[seed])
    dev = {rate: [run(args, tickets, s, rate)["dev_accuracy"] for s in CHOOSING] for rate in RATES}
    best = max(RATES, key=lambda rate: statistics.mean(dev[rate]))
    rows = [{"seed": s, **run(args, tickets, s, best, test=True)} for s in sorted(tickets)]
    kept = ("seed", "dev_accuracy", "train_accuracy", "test_accuracy")
    found = {
        "dev_accuracy": {str(rate): accuracies for rate, accuracies in dev.items()},
        "learning_rate": best,
        "runs": [{name: row[name] for name in kept} for row in rows],
    }
    write_json(args.out, found)
    print(f"Best rate {best}; written: {args.out}")


def scaled(ticket: Ticket) -> Ticket:
    """The ticket with each layer's weights divided by the root of the share that is kept of it."""
    factors = {name: float(mask.mean()) ** -0.5 for name, mask in ticket.masks.items()}
    weights = {name: value * factors.get(name, 1) for name, value in ticket.weights.items()}
    return ticket.with_weights(weights)


def run(args, tickets: dict[int, Path], seed: int, rate: float, test: bool = False) -> dict:
    """The result of one retraining, which is done if it is not there."""
    out = args.runs / f"seed_{seed}_rate_{rate}"
    ticket = Ticket.load(tickets[seed])
    experiment = experiment_of(ticket, tickets[seed])
    training = dataclasses.replace(experiment.training, learning_rate=rate)
    experiment = dataclasses.replace(experiment, training=training)
    return retrain_ticket(out, tickets[seed], Recipe("vanilla"), experiment, test=test)


if __name__ == "__main__":
    main()
