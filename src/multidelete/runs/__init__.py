"""Results of runs: rows, groups of rows, run folders and bench folders."""
