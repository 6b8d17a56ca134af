"""Denoised Diffusion Smoothing: schedules, Algorithm 1, Algorithm 2, aggregation."""
