"""Ask about an image file without ROS, after `pip install ".[engine]"`.

The model is a folder, a name on the hub or one of the presets::

    python3 without_ros.py table.jpg "the red mug" robobrain2.0-3b
"""

import asyncio
import sys

from PIL import Image

from robobrain_ros.core import Query, Task, draw, read_image
from robobrain_ros.local import open_brain


async def main() -> None:
    file, instruction, model = sys.argv[1:4]
    image = read_image(file)
    brain = await open_brain(model)
    try:
        answer = await brain.run(Query(Task.POINT, instruction, [image]))
    finally:
        await brain.close()
    for point in answer.points:
        print(f"{instruction}: u={point.u:.1f}, v={point.v:.1f} pixels")
    Image.fromarray(draw(image, answer, instruction=instruction)).save("answer.png")


# The engine starts processes that import this file again: without this line, each of them would start an engine.
if __name__ == "__main__":
    asyncio.run(main())
