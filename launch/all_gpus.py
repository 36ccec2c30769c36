"""Runs a command on all GPUs of this machine, or on some; they share each batch.

    python launch/all_gpus.py -- lottery-tf find --flagfile=FILE --out=DIR

It adds --strategy=mirrored to the command.
"""

from launching import arguments, become, parse, visible


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--gpus", type=int, nargs="+", help="their numbers in nvidia-smi (default: all)"
    )
    given = parse(parser)
    environment = {} if given.gpus is None else visible(given.gpus)
    become([*given.command, "--strategy=mirrored"], environment, given.dry_run)


if __name__ == "__main__":
    main()
