"""``python -m densecore``: the same as the command ``densecore``."""

import sys

from densecore.cli import main

if __name__ == "__main__":
    sys.exit(main())
