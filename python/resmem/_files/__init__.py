"""Files: atomic writes, the container format, memories in it, and exports as plain arrays."""
