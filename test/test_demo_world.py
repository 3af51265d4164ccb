"""The tabletop world: the image and its ground truth agree, and are the same on any machine."""

import hashlib
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest

from robobrain_ros.demo.layout import COLOURS, KINDS, NAMES
from robobrain_ros.demo.world import FIRST_OBJECT, GRIPPER, LEAST_VISIBLE, TABLE, Scene, SceneObject, make_scene, render_layout

CAMERAS = [(640, 480), (1280, 720), (848, 480), (480, 640), (480, 480), (320, 240), (112, 112)]

DIGESTS = {
    (0, (640, 480)): "9b58cf61b2f4ff2e",
    (1, (1280, 720)): "6f208f24b7c35a5b",
    (2, (480, 640)): "7b4962a7598b0b83",
    (3, (112, 112)): "8d667d45c74097fb",
    (7, (424, 240)): "e237cb15e38cb851",
}
"""Digests of scenes that were generated once. If they change, the demo model must be trained again."""


def digest(scene: Scene) -> str:
    """Return a digest of all camera data of a scene."""
    content = hashlib.sha256()
    for array in (scene.image, scene.depth, scene.mask):
        content.update(np.ascontiguousarray(array).tobytes())
    return content.hexdigest()[:16]


def some_scenes(number: int = 12) -> Iterator[Scene]:
    """Return scenes of all camera sizes."""
    for seed in range(number):
        yield make_scene(seed, CAMERAS[seed % len(CAMERAS)])


def pixels_of(box: tuple[int, int, int, int], shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Return the mask of the pixels inside a bounding box."""
    inside = np.zeros(shape, bool)
    inside[box[1] : box[3] + 1, box[0] : box[2] + 1] = True
    return inside


def turn_of(orientation: tuple[float, float, float, float]) -> npt.NDArray[np.float64]:
    """Return the rotation matrix of a quaternion (x, y, z, w)."""
    x, y, z, w = orientation
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def surface_of(scene: Scene, identity: int) -> npt.NDArray[np.float64]:
    """Return the visible points of an object, (n, 3) metres in the optical frame, from the depth image and the intrinsics."""
    rows, columns = np.nonzero(scene.mask == identity)
    depth = scene.depth[rows, columns].astype(np.float64)
    lens = scene.intrinsics
    return np.stack([(columns - lens.cx) / lens.fx * depth, (rows - lens.cy) / lens.fy * depth, depth], 1)


def in_its_own_frame(scene: Scene, thing: SceneObject) -> npt.NDArray[np.float64]:
    """Return the visible points of an object in the frame of its pose."""
    points = surface_of(scene, thing.id) - np.array(thing.pose.position)
    return points @ turn_of(thing.pose.orientation)


@pytest.mark.parametrize(("seed", "size"), DIGESTS)
def test_a_seed_gives_the_same_scene_on_any_machine(seed: int, size: tuple[int, int]) -> None:
    assert digest(make_scene(seed, size)) == DIGESTS[seed, size]


def test_a_scene_moves_the_same_way_on_any_machine() -> None:
    assert digest(make_scene(0).at(1.5)) == "7f3c7617b89f69f1"


def test_other_seeds_give_other_scenes() -> None:
    assert len({digest(make_scene(seed, (320, 240))) for seed in range(20)}) == 20


@pytest.mark.parametrize("size", [*CAMERAS, (112, 448), (448, 112), (1920, 1080)])
def test_a_scene_has_the_size_asked_for(size: tuple[int, int]) -> None:
    scene = make_scene(4, size)
    width, height = size
    assert (scene.width, scene.height) == size
    assert (scene.image.shape, scene.image.dtype) == ((height, width, 3), np.uint8)
    assert (scene.depth.shape, scene.depth.dtype) == ((height, width), np.float32)
    assert (scene.mask.shape, scene.mask.dtype) == ((height, width), np.uint8)
    assert (scene.intrinsics.cx, scene.intrinsics.cy) == ((width - 1) / 2, (height - 1) / 2)
    assert 0.6 < scene.intrinsics.fx / max(size) <= 1.0


def test_the_mask_holds_the_table_the_gripper_and_each_thing() -> None:
    for scene in some_scenes():
        ids = [thing.id for thing in scene.objects]
        assert ids == list(range(FIRST_OBJECT, FIRST_OBJECT + len(ids)))
        assert set(np.unique(scene.mask)) == {TABLE, GRIPPER, *ids}


def test_boxes_are_the_bounds_of_the_masks() -> None:
    for scene in some_scenes():
        bounds = {thing.id: thing.box for thing in scene.objects} | {GRIPPER: scene.gripper.box}
        for identity, box in bounds.items():
            rows, columns = np.nonzero(scene.mask == identity)
            assert box == (columns.min(), rows.min(), columns.max(), rows.max())


def test_the_part_to_grasp_lies_within_the_thing() -> None:
    parts = dict.fromkeys(KINDS, 0)
    for scene in some_scenes(24):
        for thing in scene.objects:
            box, part = thing.box, thing.affordance
            assert box[0] <= part[0] <= part[2] <= box[2]
            assert box[1] <= part[1] <= part[3] <= box[3]
            assert (scene.mask[pixels_of(part, scene.mask.shape)] == thing.id).any()
            if thing.kind in ("block", "ball"):
                assert part == box
            elif thing.kind == "mug":
                assert part[2] - part[0] < box[2] - box[0] or part[3] - part[1] < box[3] - box[1]
            parts[thing.kind] += 1
    assert min(parts.values()) > 3


def test_the_centre_lies_on_the_thing() -> None:
    for scene in some_scenes(24):
        for thing in scene.objects:
            u, v = thing.centre
            assert scene.mask[v, u] == thing.id


def test_the_gripper_hangs_above_its_tip_and_points_at_no_thing() -> None:
    for scene in some_scenes(24):
        u, v = scene.gripper.tip
        left, top, right, bottom = scene.gripper.box
        reach = 0.01 * scene.width + 1
        assert left - reach <= u <= right + reach
        assert top <= v <= bottom + reach
        assert scene.mask[v, u] in (TABLE, GRIPPER)


def test_depth_shows_balls_where_their_poses_say() -> None:
    """The distance of every visible point of a ball from its centre equals the radius."""
    seen = 0
    for scene in some_scenes(24):
        for thing in scene.objects:
            if thing.kind == "ball":
                away = np.linalg.norm(in_its_own_frame(scene, thing), axis=1)
                np.testing.assert_allclose(away, thing.size[0] / 2, atol=2e-4)
                seen += 1
    assert seen > 5


def test_depth_shows_blocks_where_their_poses_say() -> None:
    """Every visible point of a block is on one of its faces, so the orientation is correct too."""
    seen = 0
    for scene in some_scenes(24):
        for thing in scene.objects:
            if thing.kind == "block":
                half = np.array([thing.size[0], thing.size[0], thing.size[1]]) / 2
                beyond = np.abs(in_its_own_frame(scene, thing)) - half
                np.testing.assert_allclose(beyond.max(1), 0, atol=2e-4)
                seen += 1
    assert seen > 5


def test_the_part_to_grasp_is_the_handle_of_a_mug_and_the_rim_of_a_bowl() -> None:
    """Checked by depth: the handle is outside the radius of a mug, and the rim is as high as the top of a bowl."""
    seen = dict.fromkeys(("mug", "bowl"), 0)
    for scene in some_scenes(24):
        for thing in scene.objects:
            if thing.kind not in seen:
                continue
            x, y, z = in_its_own_frame(scene, thing).T
            rows, columns = np.nonzero(scene.mask == thing.id)
            part = np.hypot(x, y) > thing.size[0] / 2 + 2e-4 if thing.kind == "mug" else z > thing.size[1] / 2 - 2e-4
            bounds = columns[part].min(), rows[part].min(), columns[part].max(), rows[part].max()
            np.testing.assert_allclose(thing.affordance, bounds, atol=max(2, scene.width / 200))
            seen[thing.kind] += 1
    assert min(seen.values()) > 5


def test_depth_shows_mugs_and_bowls_where_their_poses_say() -> None:
    """Points are between the table and the object's height, and within the radius except for a mug's handle along x."""
    handles = 0
    for scene in some_scenes(24):
        for thing in scene.objects:
            if thing.kind not in ("mug", "bowl"):
                continue
            x, y, z = in_its_own_frame(scene, thing).T
            radius, half = thing.size[0] / 2, thing.size[1] / 2
            assert np.abs(z).max() < half + 2e-4
            assert z.max() > half - 0.01
            outside = np.hypot(x, y) > radius + 2e-4
            if thing.kind == "bowl":
                assert not outside.any()
            else:
                assert outside.any()
                assert (x[outside] > radius * 0.9).all()
                assert (np.abs(y[outside]) < radius * 0.2).all()
                handles += 1
    assert handles > 5


def test_the_table_is_flat() -> None:
    """The lower rows of the table and wall points are in one plane, on which the objects stand."""
    for scene in some_scenes():
        points = surface_of(scene, TABLE).reshape(-1, 3)
        rows = np.nonzero(scene.mask == TABLE)[0]
        table = points[rows >= scene.height * 0.8]
        thing = scene.objects[0]
        up = turn_of(thing.pose.orientation)[:, 2]
        ground = np.array(thing.pose.position) - up * thing.size[1] / 2
        np.testing.assert_allclose((table - ground) @ up, 0, atol=3e-4)


def test_the_depth_is_finite_and_in_reach() -> None:
    for scene in some_scenes():
        assert np.isfinite(scene.depth).all()
        assert 0.1 < scene.depth.min() < scene.depth.max() < 5


def test_things_are_seen_nearly_whole() -> None:
    for scene in some_scenes(24):
        again, visible = render_layout(scene.layout)
        assert visible >= LEAST_VISIBLE
        assert digest(again) == digest(scene)


def test_things_have_their_colours_in_the_image() -> None:
    """Light changes the brightness of an object more than its hue: its own colour must be the nearest of all."""
    hues = {name: np.array(colour) / np.linalg.norm(colour) for name, colour in COLOURS.items()}
    for scene in some_scenes():
        for thing in scene.objects:
            mean = scene.image[scene.mask == thing.id].mean(0)
            nearest = max(hues, key=lambda name: float(hues[name] @ mean))
            assert nearest == thing.colour


def test_scenes_hold_two_to_six_different_things() -> None:
    counts: set[int] = set()
    names: set[str] = set()
    for seed in range(80):
        things = make_scene(seed, (160, 120)).objects
        counts.add(len(things))
        names.update(thing.name for thing in things)
        assert len({thing.name for thing in things}) == len(things)
        assert all(thing.name == f"{thing.colour} {thing.kind}" for thing in things)
    assert counts == {2, 3, 4, 5, 6}
    assert names == set(NAMES)


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6])
def test_the_count_can_be_chosen(count: int) -> None:
    assert all(len(make_scene(seed, (320, 240), count=count).objects) == count for seed in range(5))


@pytest.mark.parametrize("names", [["red mug"], ["blue bowl", "red ball"], ["red ball", "green ball", "blue ball", "red block"]])
def test_the_things_can_be_chosen(names: list[str]) -> None:
    scene = make_scene(1, names=names)
    assert [thing.name for thing in scene.objects] == names
    assert all(scene.find(name) is thing for name, thing in zip(names, scene.objects, strict=True))
    assert scene.find("orange bowl") is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": (111, 480)}, "112x112"),
        ({"size": (640, 0)}, "640x0"),
        ({"count": 1}, "count"),
        ({"count": 7}, "count"),
        ({"names": []}, "names"),
        ({"names": ["pink mug"]}, "pink mug"),
        ({"names": ["red mug", "red mug"]}, "different"),
        ({"names": list(NAMES[:7])}, "names"),
        ({"size": (2000, 112), "names": list(NAMES[:6])}, "No layout"),
    ],
)
def test_wrong_arguments_are_rejected(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_scene(0, **arguments)  # type: ignore[arg-type]


def test_things_move_and_come_back() -> None:
    scene = make_scene(11)
    assert digest(scene.at(0.0)) == digest(scene)
    assert digest(scene.at(6.0)) == digest(scene)
    assert digest(scene.at(7.5)) == digest(scene.at(1.5)) == digest(scene.at(-4.5)) == digest(scene.at(4.5))
    away = scene.at(3.0)
    moved = [
        np.linalg.norm(np.subtract(now.pose.position, before.pose.position))
        for before, now in zip(scene.objects, away.objects, strict=True)
    ]
    assert max(moved) > 0.002
    assert max(moved) < 0.03
    assert [thing.name for thing in away.objects] == [thing.name for thing in scene.objects]
    assert (away.intrinsics, away.layout.camera) == (scene.intrinsics, scene.layout.camera)


def test_things_move_smoothly() -> None:
    scene = make_scene(11, (320, 240))
    steps = [scene.at(second / 10) for second in range(61)]
    for before, now in pairwise(steps):
        for one, other in zip(before.objects, now.objects, strict=True):
            assert np.linalg.norm(np.subtract(one.pose.position, other.pose.position)) < 0.003
            u, v = other.centre
            assert now.mask[v, u] == other.id
