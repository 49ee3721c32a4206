"""Encoded images to pixels, with limits; training shares what a pixel is."""
