"""Diffusion backbones behind one protocol (`base.Denoiser`), one file each, named as in configs."""
