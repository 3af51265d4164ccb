"""Ask about an image file without ROS.

Install the package first: `pip install ".[engine]"`. The model is a folder, a name on the hub, or a preset::

    python3 without_ros.py table.jpg "the red mug" robobrain2.0-3b
"""

import argparse
import asyncio
import sys

from PIL import Image

from robobrain_ros.core import Query, Task, draw, read_image
from robobrain_ros.errors import RoboBrainError
from robobrain_ros.local import open_brain


async def main() -> None:
    parser = argparse.ArgumentParser(description="Ask about an image file without ROS.")
    parser.add_argument("file")
    parser.add_argument("instruction")
    parser.add_argument("model", help="folder, name on the hub, or preset such as robobrain2.0-3b")
    given = parser.parse_args()
    image = read_image(given.file)
    brain = await open_brain(given.model)
    try:
        answer = await brain.run(Query(Task.POINT, given.instruction, [image]))
    finally:
        await brain.close()
    for point in answer.points:
        print(f"{given.instruction}: u={point.u:.1f}, v={point.v:.1f} pixels")
    Image.fromarray(draw(image, answer, instruction=given.instruction)).save("answer.png")


# The engine starts processes that import this file again. Without this line, each process would start an engine.
if __name__ == "__main__":
    try:
        asyncio.run(main())
    except RoboBrainError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
