"""The file format: HDUs and their headers, checksums, binary tables, tile compression, damaged files."""
