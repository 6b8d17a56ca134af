"""Classifiers: loading, with the normalisation inside the module, and a look at their attention."""
