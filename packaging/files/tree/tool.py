"""The command line tool's entry in the private tree."""

import sys

sys.path.append(__file__.rpartition("/")[0])
from copepod.cli import main

sys.exit(main())
