"""``python -m tests.fuzzing N [SEED]``."""

import sys

from tests.fuzzing.hunt import main

if __name__ == "__main__":
    sys.exit(main())
