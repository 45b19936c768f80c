"""Copepod: a containerd shim v2 that runs WebAssembly behind the walls of a Linux container."""

__version__ = "0.1.0"
