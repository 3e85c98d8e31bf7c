"""`tidegate` and `python -m tidegate`."""

import sys

from tidegate.runtime.cli.cli import main

if __name__ == "__main__":
    sys.exit(main())
