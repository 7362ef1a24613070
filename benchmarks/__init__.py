"""Measurements and training runs behind the figures in the documentation."""
