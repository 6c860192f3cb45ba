"""Measurements of the package and the references they are held against."""
