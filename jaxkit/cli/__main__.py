"""`python -m jaxkit.cli` is the command `jaxkit`."""

import sys

from jaxkit.cli import main

if __name__ == "__main__":
    sys.exit(main())
