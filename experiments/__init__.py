"""One short program per job, table or figure: flags in, a run folder out."""
