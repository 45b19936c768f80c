"""The shim's entry in the private tree; the launcher runs it as `python -ISB shim.py`."""

import sys

sys.path.append(__file__.rpartition("/")[0])
from copepod.launch import main

main()
