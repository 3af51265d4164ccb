"""Trajectories in metres: checks before a robot moves, resampling and smoothing."""
