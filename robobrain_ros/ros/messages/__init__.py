"""Conversions between messages and the data of the core."""
