"""Decode images and depth images in the formats of sensors and image_transport."""
