"""Studies: a grid of trainings, their measurements and their analyses, from one file."""
