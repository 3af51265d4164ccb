"""The formats of images and depth images as sensors and image_transport deliver them."""
