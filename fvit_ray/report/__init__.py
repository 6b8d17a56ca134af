"""From a run folder to what a person reads: tables, curves, pictures, one HTML file."""
