"""The survey: where its fields and tiles are, which exposures belong to which image, which detectors reach a tile."""

from .tables import ImageTable, Tile, field_centre, fields, focal_plane, galaxy, images, tiles

__all__ = ["ImageTable", "Tile", "field_centre", "fields", "focal_plane", "galaxy", "images", "tiles"]
