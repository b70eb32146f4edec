"""The choice of a memory's settings, and the proof that it helps."""
