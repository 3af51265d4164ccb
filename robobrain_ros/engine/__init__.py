"""Engines generate text from images and prompts. They do not depend on tasks."""
