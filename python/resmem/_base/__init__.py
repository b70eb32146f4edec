"""Arrays, checks, blocks, errors and threads, on which every other room builds."""
