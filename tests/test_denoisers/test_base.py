import math

import pytest
import torch
from diffusers import DDPMScheduler

from fvit_ray.denoisers.base import (
    DenoiserError,
    linear,
    posterior,
    read_output,
    scaled_linear,
    x0_from_eps,
)
from fvit_ray.denoisers.identity import build
from fvit_ray.denoisers.weights import difference, read_schedule


@pytest.fixture
def z():
    return torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize("t", [0, 1, 45, 145, 999])
def test_x0_undoes_the_noising(t, z):
    abar = float(linear(1e-4, 0.02, 1000)[t])
    n = torch.randn(z.shape, generator=torch.Generator().manual_seed(2)).double()
    z_t = math.sqrt(abar) * z + math.sqrt(1 - abar) * n
    torch.testing.assert_close(x0_from_eps(z_t, n, abar), z)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("t", [0, 45, 870])
def test_every_prediction_type_means_the_same(kind, t, z):
    """The three outputs that say the same give the same prediction, and diffusers' x0."""
    abars = linear(1e-4, 0.02, 1000)
    signal, spread = math.sqrt(abars[t]), math.sqrt(1 - abars[t])
    n = torch.randn(z.shape, generator=torch.Generator().manual_seed(3)).double()
    output = {"epsilon": n, "v_prediction": signal * n - spread * z, "sample": z}[kind]
    z_t = signal * z + spread * n
    read = read_output(output, z_t, t, abars, kind)
    torch.testing.assert_close(read.x0, z)
    torch.testing.assert_close(read.eps_pred, n)
    assert read.log_variance is None
    scheduler = DDPMScheduler(1000, prediction_type=kind, clip_sample=False)
    x0 = scheduler.step(output, t, z_t).pred_original_sample
    torch.testing.assert_close(read.x0, x0, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("t", [1, 45, 870])
def test_learned_range_spans_beta_and_posterior(t, z):
    abars = linear(1e-4, 0.02, 1000)
    beta = float(1 - abars[t] / abars[t - 1])
    low = beta * float((1 - abars[t - 1]) / (1 - abars[t]))
    for share, expected in ((-1.0, low), (1.0, beta), (0.0, math.sqrt(low * beta))):
        output = torch.cat([z, torch.full_like(z, share)], 1)
        log_variance = read_output(output, z, t, abars).log_variance
        torch.testing.assert_close(log_variance.exp(), torch.full_like(z, expected))


def test_posterior_ends():
    abars = linear(1e-4, 0.02, 1000)
    first = posterior(abars, 0)
    assert (first.x0_weight, first.z_t_weight) == (pytest.approx(1), 0)
    assert first.log_variance == posterior(abars, 1).log_variance  # clipped, never log 0
    for t in (1, 500):
        q = posterior(abars, t)  # the mean of a noiseless z_t is a noiseless z_{t-1}
        kept = q.x0_weight + q.z_t_weight * math.sqrt(abars[t])
        assert kept == pytest.approx(math.sqrt(abars[t - 1]))


@pytest.mark.parametrize("shape", ["linear", "scaled_linear"])
def test_schedules_are_diffusers(shape, tmp_path):
    scheduler = DDPMScheduler(1000, beta_start=0.0015, beta_end=0.0195, beta_schedule=shape)
    scheduler.save_pretrained(tmp_path)
    abars, kind = read_schedule(tmp_path)
    assert abars.dtype == torch.float64
    assert kind == "epsilon"
    torch.testing.assert_close(abars.float(), scheduler.alphas_cumprod, rtol=2e-5, atol=0)
    ours = {"linear": linear, "scaled_linear": scaled_linear}[shape]
    assert torch.equal(abars, ours(0.0015, 0.0195, 1000))


def test_trained_betas_and_unknown_schedules(tmp_path):
    betas = [0.1, 0.2]
    DDPMScheduler(trained_betas=betas).save_pretrained(tmp_path / "scheduler")
    torch.testing.assert_close(read_schedule(tmp_path)[0], torch.tensor([0.9, 0.72]).double())
    DDPMScheduler(beta_schedule="squaredcos_cap_v2").save_pretrained(tmp_path)
    with pytest.raises(DenoiserError, match="beta_schedule 'squaredcos_cap_v2' is none of linear"):
        read_schedule(tmp_path)


def test_difference_names_what_is_wrong():
    own = {"a": (2,), "b": (3,), "c": (1,)}
    assert difference(own, own) == ""
    given = {"a": (4,), "b": (3,), "d": (2,)}
    words = difference(own, given)
    assert words == "lacks 1 keys (c); has 1 keys (d); 1 shapes differ (a (4,) for (2,))"


def test_identity_is_no_network(z):
    denoiser = build(None, random_weights=True, device="cpu", dtype=torch.float16)
    x = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(denoiser.decode(denoiser.encode(x)), x)
    abar = float(denoiser.alphas_cumprod[145])
    prediction = denoiser.predict(z, 145)
    torch.testing.assert_close(prediction.x0, z / math.sqrt(abar))
    assert not prediction.eps_pred.any()
    assert (denoiser.latent, denoiser.resolution) == (False, None)
