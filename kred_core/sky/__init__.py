"""Where pixels are on the sky: WCS, corners, footprints as spherical polygons, pixel areas, control grids."""

from .sphere import SkyPolygon, local_frame, mean_position, outlines, position, separation, touching, unit_vectors
from .wcs import Grid, celestial_wcs, centre, control_grid, corners, pixel_area_arcsec2, pixel_scale, tan_header, tan_wcs, to_sky

__all__ = ["Grid", "SkyPolygon", "celestial_wcs", "centre", "control_grid", "corners", "local_frame", "mean_position", "outlines"]
__all__ += ["pixel_area_arcsec2", "pixel_scale", "position", "separation", "tan_header", "tan_wcs", "to_sky", "touching"]
__all__ += ["unit_vectors"]
