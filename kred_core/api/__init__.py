"""The front door: what a notebook calls, for images of any camera. `kred_core` offers it by name; here is how it is done.

Every function translates arrays, `~astropy.nddata.CCDData`, files and units into what the rooms below take, and back.
"""
