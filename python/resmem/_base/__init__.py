"""What every room builds on: arrays, checks, blocks, errors, threads. Nothing here knows a row."""
