"""Labelled transfer sets on disk: what is kept of a position, how files are written whole, checked and read again."""
