"""Evaluate faithful vision transformers (Denoised Diffusion Smoothing) at scale on Ray."""

__version__ = "0.1.0"
