"""The tables of the paper and the studies: their trainings, scales and reports."""
