"""Engines: text out of images and prompts. They know nothing of tasks."""
