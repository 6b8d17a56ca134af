"""Files of a run folder: each appears whole or not at all."""
