"""Bounds of input that both the core and the engines check: files, control tokens and constraints."""
