"""The OpenAI-compatible HTTP server of an embedded engine, with its limits."""
