"""vLLM in processes of the node: start, checks of the checkpoint, supervision and leftovers."""
