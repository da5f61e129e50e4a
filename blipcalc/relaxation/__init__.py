"""Relaxation with error bars: optimisation, cells, paths, vibrations."""
