"""The live view: a page in the browser with the camera's image, the 3D scene and the answers. See docs/how-to/live_view.md."""
