"""The node's process: signals, memory, programs and command lines."""
