"""The grids in which models write coordinates, and the check of a loaded model's grid with known answers."""

from robobrain_ros.core.grids.check import GridMode, check_grid, require_grid
from robobrain_ros.core.grids.grid import Grid, grid_of, raw_answer, read_as
from robobrain_ros.core.grids.verdict import GridCheck, GridVerdict

__all__ = ["Grid", "GridCheck", "GridMode", "GridVerdict", "check_grid", "grid_of", "raw_answer", "read_as", "require_grid"]
