"""Engines on OpenAI-compatible servers."""
