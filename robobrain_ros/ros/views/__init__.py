"""Answers for RViz and other programs: markers, paths, poses and annotated images."""
