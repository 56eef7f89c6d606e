"""Stored sets: transfer sets on disk with a teacher's targets; encoding, atomic writing, verification and reading."""
