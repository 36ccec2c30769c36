"""``python -m lottery_tf`` is ``lottery-tf``."""

import sys

from lottery_tf.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
