"""Compare many trainings: grids of settings, and how many stages to share."""
