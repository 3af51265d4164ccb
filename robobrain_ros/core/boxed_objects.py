"""Find the object in a bounding box of a depth image: the samples in the box that are not on the table or the wall."""

from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import cv2
import numpy as np
import numpy.typing as npt

from robobrain_ros.core.geometry import CameraModel, Floats, to_depth_pixels
from robobrain_ros.core.normals import NOISE, rays_at
from robobrain_ros.core.surfaces import Bools, DepthImage, gap_between

Singles = npt.NDArray[np.float32]

FINE, COARSE = 48, 40
"""Samples along each side of a box with its margin, for the shape of an object, and for its normal and size."""
_MARGIN = 5.0 / 48.0
"""Share of these samples in the margin on each side."""
_RING_SAMPLES = 64
"""About this number of samples of the margin is used to find the planes behind an object."""
_MOST_TRIPLES = 20
"""Most planes with a wide base that are tried for a box."""

_STANDS_OUT = 0.005
"""Metres, in addition to noise. An object is at least this far in front of the plane on which it stands."""
_PLANE_SHARE = 0.08
"""A plane has at least this share of the valid samples in the margin."""

_LEAST_SAMPLES = 14
"""Fewest samples of an object."""
_SECOND = 0.1
"""A second object has at least this share of the samples of the first one."""
_TOGETHER = 1.0
"""Parts belong to one object if the distance of their centres is at most this share of half the sum of their sizes."""


@dataclass(frozen=True)
class BoxedObjects:
    """The objects in n boxes, sampled on grids of m x m.

    :param columns: (n, m) columns of the samples in pixels of the depth image. ``rows`` are the rows.
    :param positions: (n, m, m, 3), metres, in the optical frame; arbitrary where nothing was measured.
    :param measured: (n, m, m) whether a sample has valid depth.
    :param members: (n, m, m) whether a sample belongs to the object. No sample: the box has no valid depth.
    :param standing: (n) whether the object is in front of planes. Otherwise, the members are all valid samples in the box.
    :param several: (n) whether the box contains several objects.
    :param covered: (n) smaller share of the box's width and height in which the object has samples.
    :param valid: (n) share of the samples in the middle of the box with valid depth.
    :param steps: (n) metres between two samples at the object's depth.
    :param planes: (n, 2, 3) planes behind the object: plane · p = 1 in the optical frame. A plane that was not found is 0.
    """

    columns: npt.NDArray[np.intp]
    rows: npt.NDArray[np.intp]
    positions: Floats
    measured: Bools
    members: Bools
    standing: Bools
    several: Bools
    covered: Floats
    valid: Floats
    steps: Floats
    planes: Floats

    @property
    def margin(self) -> int:
        """Samples between the border of the grid and the box."""
        return round(_MARGIN * self.members.shape[1])

    def border(self) -> tuple[Floats, Bools]:
        """Return the first and last sample of each object in each row and column: (n, 4 m, 3); and which of them exist."""
        count, size = self.members.shape[:2]
        index, line = np.arange(count)[:, None], np.arange(size)[None]
        parts, exist = [], []
        for axis in (1, 2):
            any_member = self.members.any(axis=axis)
            for place in (self.members.argmax(axis=axis), size - 1 - np.flip(self.members, axis=axis).argmax(axis=axis)):
                at = (index, place, line) if axis == 1 else (index, line, place)
                parts.append(self.positions[at])
                exist.append(any_member)
        return np.concatenate(parts, axis=1).astype(np.float64), np.concatenate(exist, axis=1)


def find_objects(camera: CameraModel, depth: DepthImage, boxes: Floats, samples: int = COARSE) -> BoxedObjects:
    """Find the object in each box.

    :param boxes: (n, 4), finite: u_min, v_min, u_max and v_max in pixels of the image.
    :param samples: along each side: `FINE` or `COARSE`.
    :raises GeometryError: the views of depth image and camera differ.
    """
    grid = _grid(samples)
    margin = grid.margin
    scale = depth.scale(camera)
    low, high = to_depth_pixels(boxes[:, :2], scale), to_depth_pixels(boxes[:, 2:], scale)
    pace = np.maximum((high - low) / (samples - 2 * margin - 1), 0.5)
    cells = np.arange(samples) - margin
    columns = np.rint(low[:, :1] + pace[:, :1] * cells).astype(np.intp)
    rows = np.rint(low[:, 1:] + pace[:, 1:] * cells).astype(np.intp)
    z = depth.at(*np.broadcast_arrays(rows[:, :, None], columns[:, None, :])).astype(np.float32)
    x, y = _rays(camera, scale, columns, rows)
    valid = np.isfinite(z) & np.isfinite(x) & np.isfinite(y)
    z = np.where(valid, z, np.float32(1.0))
    inverse = 1.0 / z
    front = valid & grid.in_box
    candidates = valid.copy()
    behind = np.zeros((len(boxes), 2, 3))
    limit = np.float32(_STANDS_OUT) * inverse + np.float32(3.0 * NOISE) * z
    for turn in range(2):
        planes, found = _plane_around(grid, x, y, inverse, candidates)
        if not found.any():
            break
        behind[found, turn] = planes[found]
        # The height above the plane is (1 / z - plane · ray) z / |plane|. The plane of a box without one is never near.
        a, b, c = np.where(found[:, None], planes, 0.0).astype(np.float32).T[:, :, None, None]
        size = np.maximum(np.sqrt(a * a + b * b + c * c), np.float32(1e-9))
        off_plane = np.abs(inverse - (a * x + (b * y + c))) > limit * size
        candidates &= off_plane
        front &= off_plane
    members, several = _components(front, x, y, z)
    number = members.sum(axis=(1, 2))
    standing = number >= _LEAST_SAMPLES
    if not standing.all():
        members = np.where(standing[:, None, None], members, valid & grid.in_box)
        number = members.sum(axis=(1, 2))
    quarter = (samples + 2 * margin) // 4
    share = valid[:, quarter:-quarter, quarter:-quarter].mean(axis=(1, 2))
    covered = np.minimum(members.any(axis=1).sum(axis=1), members.any(axis=2).sum(axis=1)) / (samples - 2 * margin)
    positions = np.stack((x * z, y * z, z), axis=-1)
    distance = np.where(number > 0, (z * members).sum(axis=(1, 2)) / np.maximum(number, 1), 1.0)
    steps = distance * np.maximum(pace[:, 0] / (camera.fx * scale[0]), pace[:, 1] / (camera.fy * scale[1]))
    return BoxedObjects(columns, rows, positions, valid, members, standing, several & standing, covered, share, steps, behind)


def _rays(
    camera: CameraModel, scale: tuple[float, float], columns: npt.NDArray[np.intp], rows: npt.NDArray[np.intp]
) -> tuple[Singles, Singles]:
    """Return x and y of the rays of all samples: (n, m, m), or shapes that broadcast to it."""
    across, down = columns[:, None, :].astype(np.float64), rows[:, :, None].astype(np.float64)
    if camera.distortion or camera.rotation != CameraModel.rotation:
        across, down = np.broadcast_arrays(across, down)
        x, y = rays_at(camera, scale, across, down)
    else:
        x, _ = rays_at(camera, scale, across, across)
        _, y = rays_at(camera, scale, down, down)
    return x.astype(np.float32), y.astype(np.float32)


@dataclass(frozen=True)
class _Grid:
    """A grid of samples in a box and its margin.

    :param in_box: (m, m) whether a sample is in the box. ``ring``: indices of samples in the margin.
    :param rows: (16, 4) rows of the samples of places in the margin. ``columns``: their columns.
    :param triples: (t, 3) places that define planes.
    """

    margin: int
    in_box: Bools
    ring: npt.NDArray[np.intp]
    rows: npt.NDArray[np.intp]
    columns: npt.NDArray[np.intp]
    triples: npt.NDArray[np.intp]


@lru_cache(maxsize=2)
def _grid(samples: int) -> _Grid:
    """Return the grid with a number of samples along each side.

    Most triples are far apart. Four more are within one side of the margin, because a wall can fill only one side.
    """
    margin = round(_MARGIN * samples)
    first, inner, last = 0, margin - 2, samples - 2
    thirds, quarters = (2, samples // 2 - 1, samples - 4), (samples // 4, samples // 2, 3 * samples // 4)
    places = [(first, c) for c in thirds] + [(last, c) for c in thirds]
    places += [(r, first) for r in quarters] + [(r, last) for r in quarters]
    middle = samples // 2
    places += [(inner, middle), (last - inner, middle), (middle, inner), (middle, last - inner)]
    rows = np.array([[r, r, r + 1, r + 1] for r, _ in places])
    columns = np.array([[c, c + 1, c, c + 1] for _, c in places])
    wide = [triple for triple in combinations(range(12), 3) if _area(*(places[place] for place in triple)) > 0.18 * samples**2]
    within = [(3 * side, 3 * side + 2, 12 + side) for side in range(4)]
    triples = np.array(wide[:: -(-len(wide) // _MOST_TRIPLES)] + within)
    in_box = np.zeros((samples, samples), np.bool_)
    in_box[margin:-margin, margin:-margin] = True
    ring = np.flatnonzero(~in_box)
    step = max(len(ring) // _RING_SAMPLES, 1)
    return _Grid(margin, in_box, ring[:: step if step % 2 else step + 1], rows, columns, triples)


def _area(a: tuple[int, int], b: tuple[int, int], c: tuple[int, int]) -> float:
    return 0.5 * abs((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))


def _plane_around(grid: _Grid, x: Singles, y: Singles, inverse: Singles, candidates: Bools) -> tuple[Floats, Bools]:
    """Find the plane (n, 3) with the most samples in the margins (RANSAC), and whether there is one (n).

    Triples of places in the margin define the planes. The best plane is fitted again to all its samples.
    """
    count = len(inverse)
    x, y = np.broadcast_to(x, inverse.shape), np.broadcast_to(y, inverse.shape)
    good = candidates[:, grid.rows, grid.columns]
    number = good.sum(axis=2)
    weights = good / np.maximum(number, 1)[:, :, None]
    px, py, pq = ((part[:, grid.rows, grid.columns] * weights).sum(axis=2)[:, grid.triples] for part in (x, y, inverse))
    # Cramer's rule for the plane through three places, relative to the first one.
    dx, dy, dq = (part[:, :, 1:] - part[:, :, :1] for part in (px, py, pq))
    determinant = dx[:, :, 0] * dy[:, :, 1] - dx[:, :, 1] * dy[:, :, 0]
    sound = (number >= 2)[:, grid.triples].all(axis=2) & (np.abs(determinant) > 1e-9)
    determinant = np.where(sound, determinant, 1.0)
    a = (dq[:, :, 0] * dy[:, :, 1] - dq[:, :, 1] * dy[:, :, 0]) / determinant
    b = (dx[:, :, 0] * dq[:, :, 1] - dx[:, :, 1] * dq[:, :, 0]) / determinant
    planes = np.stack((a, b, pq[:, :, 0] - a * px[:, :, 0] - b * py[:, :, 0]), axis=2)
    rx, ry, rq = (part.reshape(count, -1)[:, grid.ring] for part in (x, y, inverse))
    usual = candidates.reshape(count, -1)[:, grid.ring]
    rays = np.stack((rx, ry, np.ones_like(rx)), axis=1)  # (n, 3, r)
    limit = np.where(usual, np.float32(NOISE * 3.0) + np.float32(_STANDS_OUT) * rq * rq, np.float32(-1.0))
    near = np.abs(planes.astype(np.float32) @ rays - rq[:, None, :]) < limit[:, None, :]
    votes = np.count_nonzero(near, axis=2)
    votes[~sound] = 0
    best = votes.argmax(axis=1)
    index = np.arange(count)
    inliers = near[index, best].astype(np.float64)
    # The plane counts as much as a small part of a sample, so there is always a solution.
    weighted = rays * inliers[:, None, :]
    matrix = weighted @ np.swapaxes(rays, 1, 2) + 1e-6 * np.eye(3)
    side = weighted @ rq[..., None] + 1e-6 * planes[index, best][..., None]
    fitted = np.linalg.solve(matrix, side)[..., 0]
    return fitted, votes[index, best] >= _PLANE_SHARE * len(grid.ring)


def _components(front: Bools, x: Singles, y: Singles, z: Singles) -> tuple[Bools, Bools]:
    """Return the samples of the largest object in each box, and whether there are several objects.

    A sample that is farther than a neighbour by a gap is not used as a connection. Unconnected parts, such as the outside and the
    inside of a mug, are one object if the distance of their centres is smaller than half the sum of their sizes.
    """
    count, size = front.shape[:2]
    far = np.where(front, z, np.float32(np.inf))
    nearest = far.copy()
    nearest[:, 1:] = np.minimum(nearest[:, 1:], far[:, :-1])
    nearest[:, :-1] = np.minimum(nearest[:, :-1], far[:, 1:])
    nearest[:, :, 1:] = np.minimum(nearest[:, :, 1:], far[:, :, :-1])
    nearest[:, :, :-1] = np.minimum(nearest[:, :, :-1], far[:, :, 1:])
    with np.errstate(invalid="ignore"):
        solid = front & (z - nearest < gap_between(z.astype(np.float64)))
    # All boxes are in one image, one below the other. A row without samples separates them.
    image = np.zeros((count, size + 1, size), np.uint8)
    image[:, :size] = solid
    _, flat_labels, statistics, _ = cv2.connectedComponentsWithStats(image.reshape(-1, size), connectivity=8)
    labels = flat_labels.reshape(count, size + 1, size)[:, :size]
    areas, box_of = statistics[1:, cv2.CC_STAT_AREA], statistics[1:, cv2.CC_STAT_TOP] // (size + 1)
    several = np.zeros(count, np.bool_)
    chosen = np.full(count, -1)
    order = np.argsort(-areas, kind="stable")
    boxes, firsts = np.unique(box_of[order], return_index=True)
    chosen[boxes] = order[firsts] + 1
    members = labels == chosen[:, None, None]
    largest = np.zeros(count, areas.dtype)
    largest[boxes] = areas[chosen[boxes] - 1]
    for label in order[areas[order] >= np.maximum(_SECOND * largest[box_of[order]], _LEAST_SAMPLES)] + 1:
        index = box_of[label - 1]
        if label == chosen[index]:
            continue
        own, part = labels[index] == chosen[index], labels[index] == label
        extent, centre = _extent(own, x[index], y[index], z[index])
        other_extent, other_centre = _extent(part, x[index], y[index], z[index])
        if np.linalg.norm(centre - other_centre) < _TOGETHER * 0.5 * (extent + other_extent):
            members[index] |= part
        else:
            several[index] = True
    return members, several


def _extent(part: Bools, x: Singles, y: Singles, z: Singles) -> tuple[float, Floats]:
    """Return the larger extent of samples across the line of sight in metres, and the mean (3) of their positions."""
    depths = z[part]
    across, down = np.broadcast_to(x, part.shape)[part] * depths, np.broadcast_to(y, part.shape)[part] * depths
    size = max(float(np.ptp(across)), float(np.ptp(down)))
    return size, np.array([across.mean(), down.mean(), depths.mean()])
