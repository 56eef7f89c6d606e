"""Losses: what a student is trained to do, with torch alone: usable in any training loop."""
