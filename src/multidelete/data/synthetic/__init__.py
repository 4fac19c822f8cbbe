"""Generated data sets: scenes, premises, statements and gene-phenotype relations (no torch)."""
