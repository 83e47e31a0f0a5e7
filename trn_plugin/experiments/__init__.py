"""Many trainings that are compared: grids of settings, and where to share."""
