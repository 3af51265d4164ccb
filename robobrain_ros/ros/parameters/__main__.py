"""Write a document of the parameters: python -m robobrain_ros.ros.parameters yaml|markdown."""

import sys

from robobrain_ros.ros.parameters.documents import to_markdown, to_yaml

writers = {"yaml": to_yaml, "markdown": to_markdown}
if len(sys.argv) != 2 or sys.argv[1] not in writers:
    sys.exit(f"usage: python -m robobrain_ros.ros.parameters {'|'.join(writers)}")
sys.stdout.write(writers[sys.argv[1]]())
