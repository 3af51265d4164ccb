"""Errors of rcl when a program starts, with advice. rcl's own text names neither a variable nor an option."""

import os

_LOG_ADVICE = (
    "Set the environment variable ROS_LOG_DIR to a writable folder, or start without a log file "
    "(--ros-args --disable-external-lib-logs)."
)
_SECURITY_ADVICE = (
    "ROS_SECURITY_ENABLE is true: set ROS_SECURITY_KEYSTORE, and an enclave that was created for this ROS_DOMAIN_ID "
    "(docs/how-to/security.md). ROS 2 from PyPI has no DDS security."
)


def explain(error: Exception) -> str:
    """Return the text of an error in one line, with advice if its cause is known."""
    text = " ".join(str(error).split())
    if "Failed opening file" in text:
        return f"{text}. {_LOG_ADVICE}"
    if isinstance(error, RuntimeError) and os.environ.get("ROS_SECURITY_ENABLE", "").lower() == "true":
        return f"{text}. {_SECURITY_ADVICE}"
    return text
