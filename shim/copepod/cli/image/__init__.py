"""Making, sending and looking at images that hold WebAssembly.

It runs no module: what a module is comes from `describe`, in a process of its own.
"""
