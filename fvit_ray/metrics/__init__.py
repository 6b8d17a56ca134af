"""Scores and their intervals, from plain arrays and result rows."""
