"""What a memory does for its model on rows whose targets are known, and why."""
