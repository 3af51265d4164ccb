"""Check requests, select their images, run them on the engine's loop, and return exactly one result for each."""
