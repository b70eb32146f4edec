"""What makes search fast: when rows get an index, of what shape, and whether it stays."""
