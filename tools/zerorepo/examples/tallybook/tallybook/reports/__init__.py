"""Sums for people to read."""
