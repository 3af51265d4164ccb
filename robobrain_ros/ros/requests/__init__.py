"""Requests: checks, the choice of images, the work on the engine's loop, and exactly one result for each."""
