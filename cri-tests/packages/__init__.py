"""The packages as files: their sizes, the same bytes twice, the linters, and what runs out of them
on every CPython and on arm64. `make vm` installs them on a whole node.
"""
