"""The Triton kernel of single-token attention, by JAX's interpreter: what it computes and reads."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from powerjax.models import decode_kernel
from powerjax.models.attention import attention, fastest

S, CHUNK = 80, 32  # three chunks, the last one not full


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(decode_kernel, "_CHUNK", CHUNK)


def _arrays(positions, heads=(6, 2), head_dim=16, num_slots=S, dtype=np.float32):
    """Returns q, k, v and positions; a row's numbers depend on its place alone."""
    rng = np.random.default_rng(0)
    batch = len(positions)
    q = rng.standard_normal((batch, 1, heads[0], head_dim))
    k, v = rng.standard_normal((2, batch, heads[1], num_slots, head_dim))
    return *(jnp.asarray(x, dtype) for x in (q, k, v)), np.asarray(positions, np.int32)[:, None]


def _kernel(*arrays, **options):
    return np.asarray(decode_kernel.decode_attention(*arrays, interpret=True, **options))


def _softmax(q, k, v, positions, window=None):
    """Returns attention in float64, from all scores of a head at once."""
    q, k, v = (np.asarray(x.astype(jnp.float32), float) for x in (q, k, v))
    groups = q.shape[2] // k.shape[1]
    scores = np.einsum("bnh,bnsh->bns", q[:, 0], np.repeat(k, groups, 1)) / q.shape[-1] ** 0.5
    slots = np.arange(k.shape[2])
    visible = slots <= positions
    if window is not None:
        visible &= slots > positions - window
    weights = np.exp(np.where(visible[:, None], scores, -np.inf))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bns,bnsh->bnh", weights, np.repeat(v, groups, 1))[:, None]


@pytest.mark.parametrize(
    ("heads", "head_dim", "num_slots", "window"),
    [((6, 2), 16, S, None), ((7, 1), 24, S, None), ((2, 2), 16, CHUNK, None), ((6, 2), 16, S, 20)],
)
def test_it_is_softmax_over_the_slots_up_to_the_position(heads, head_dim, num_slots, window):
    arrays = _arrays([0, num_slots - 1, num_slots // 2, 31], heads, head_dim, num_slots)
    result = _kernel(*arrays, window=window)
    np.testing.assert_allclose(result, _softmax(*arrays, window), atol=2e-6)


def test_in_bfloat16_it_is_as_near_to_softmax_as_xla_is():
    arrays = _arrays([3, S - 1, 40], dtype=jnp.bfloat16)
    exact = _softmax(*arrays)
    ours, xla = _kernel(*arrays), attention(*arrays, implementation="xla")
    apart = [np.abs(np.asarray(x, float) - exact).max() for x in (ours, xla)]
    assert apart[0] < max(1.5 * apart[1], 4e-3)


def test_neighbours_and_the_caches_length_change_no_bit_of_a_row():
    q, k, v, positions = _arrays([20, S - 1, 45])
    together = _kernel(q, k, v, positions)
    for row in range(3):
        one = slice(row, row + 1)
        np.testing.assert_array_equal(
            _kernel(q[one], k[one], v[one], positions[one])[0], together[row]
        )
    short = _kernel(q[:1], k[:1, :, :CHUNK], v[:1, :, :CHUNK], positions[:1])  # one chunk
    np.testing.assert_array_equal(short[0], together[0])


def test_slots_past_the_position_are_not_read():
    q, k, v, positions = _arrays([20, 63, 0])
    clean = _kernel(q, k, v, positions)
    hidden = (np.arange(S) > positions)[:, None, :, None]
    k, v = (jnp.where(hidden, jnp.nan, x) for x in (k, v))
    np.testing.assert_array_equal(_kernel(q, k, v, positions), clean)


def test_without_a_gpu_the_switch_takes_xlas_path_on_one_device_and_on_two():
    q, k, v, positions = _arrays([20, 63, 0])
    plain = attention(q, k, v, positions)
    switched = attention(q, k, v, positions, implementation="triton")
    np.testing.assert_array_equal(switched, plain)
    mesh = jax.sharding.Mesh(jax.devices()[:2], ("model",))
    place = NamedSharding(mesh, P(None, "model"))
    call = functools.partial(attention, implementation="triton", place=place)
    k, v = jax.device_put((k, v), place)
    np.testing.assert_allclose(jax.jit(call)(q, k, v, positions), plain, atol=1e-6)


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs an NVIDIA GPU from Ampere on")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_on_a_card_it_is_what_the_interpreter_computes(dtype):
    arrays = _arrays([0, 20, 63, S - 1], head_dim=24, dtype=dtype)
    compiled = np.asarray(decode_kernel.decode_attention(*arrays), float)
    atol = 1e-5 if dtype == "float32" else 1e-2
    np.testing.assert_allclose(compiled, _kernel(*arrays).astype(float), atol=atol)


@pytest.mark.parametrize(
    ("platform", "kind", "capability", "chosen"),
    [
        ("gpu", "NVIDIA H100 80GB HBM3", "9.0", "triton"),
        ("gpu", "NVIDIA A100-SXM4-40GB", "8.0", "triton"),
        ("gpu", "Tesla T4", "7.5", "xla"),
        ("gpu", "AMD Instinct MI300X", "gfx942", "xla"),
        ("cpu", "cpu", None, "xla"),
        ("tpu", "TPU v5e", None, "xla"),
    ],
)
def test_the_default_is_the_kernel_on_nvidia_gpus_from_ampere_on(
    platform, kind, capability, chosen, monkeypatch
):
    device = types.SimpleNamespace(
        platform=platform, device_kind=kind, compute_capability=capability
    )
    monkeypatch.setattr(jax, "devices", lambda: [device])
    assert fastest.__wrapped__() == chosen
