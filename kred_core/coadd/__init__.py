"""Co-addition: from a plan (`plan`) to a mosaic and its coverage map, by kred itself (`native`) or by SWarp (`swarp`).

Both engines have one function ``coadd`` with the same arguments. Nothing is imported here,
because `kred_core.sky` needs the grid of `plan` and the engines need `kred_core.sky`.
"""

__all__: list[str] = []
