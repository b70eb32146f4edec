"""Files: the container, writing whole or not at all, memories in it, plain arrays."""
