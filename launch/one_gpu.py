"""Runs a command on one GPU of this machine.

    python launch/one_gpu.py --gpu=1 -- lottery-tf find --flagfile=FILE --out=DIR

Several commands can share a GPU if each has --memory_growth.
"""

from launching import arguments, become, parse, visible


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--gpu", type=int, default=0, help="its number in nvidia-smi (default: 0)")
    given = parse(parser)
    become(given.command, visible([given.gpu]), given.dry_run)


if __name__ == "__main__":
    main()
