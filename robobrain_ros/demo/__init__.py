"""The tabletop world, and a small model that knows nothing else."""

from pathlib import Path

DEMO_MODEL = Path(__file__).parent / "model"
"""The tabletop demo model's checkpoint; its README says how it was made and what it can do."""


class DemoError(Exception):
    """A program of the demo cannot go on; the message says why."""
