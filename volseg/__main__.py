"""``python -m volseg``: the command, where its own script is not on the path."""

import sys

from volseg.cli import main

if __name__ == "__main__":
    sys.exit(main())
