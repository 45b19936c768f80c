"""What runs in the node: nothing but the standard library, as root, as a systemd unit."""
