"""The rig: private containerds, guests and images that show what the shim does on a real node.

It never touches the machine's own containerd, and nothing here is imported by the shim.
"""
