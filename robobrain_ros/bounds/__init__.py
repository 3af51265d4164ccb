"""Bounds of input that both the core and the engines check: files, texts, control tokens and constraints."""
