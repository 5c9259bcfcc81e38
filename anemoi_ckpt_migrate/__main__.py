"""``python -m anemoi_ckpt_migrate``."""

import sys

from anemoi_ckpt_migrate.cli import entry

if __name__ == "__main__":
    sys.exit(entry())
