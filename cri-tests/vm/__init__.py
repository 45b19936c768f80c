"""A whole node under qemu: Debian 13 with systemd, control groups version 2 and containerd 1.7.

The package `inside` runs in the node and is all that does; the other modules make it and boot it.
"""
