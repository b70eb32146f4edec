"""A memory at one moment, and how another moment is published."""
