"""`python -m copepod.cli`: the tool without an installed script.

It refuses to be imported for anything else.
"""

import sys

from copepod.cli import main

if __name__ == "__main__":
    sys.exit(main())
