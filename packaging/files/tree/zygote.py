"""The fork server's entry in the private tree."""

import sys

sys.path.append(__file__.rpartition("/")[0])
from copepod.zygote.server import main

main("/run/copepod/zygote.sock")
