"""`copepod run`: one container on this node's containerd, without a cluster.

It keeps nothing of its own: containerd holds the image, the container and its state.
"""
