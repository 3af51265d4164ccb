"""Training of the tabletop demo model."""
