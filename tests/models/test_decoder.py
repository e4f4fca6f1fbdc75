"""The layers whose gradients are written out: they are autodiff's."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from powerjax.models import decoder


def _normalized(x):
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return (wide * jax.lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + 1e-6)).astype(x.dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "ours, plain, inputs",
    [
        (lambda x: decoder.normalized(1e-6, x), _normalized, 1),
        (decoder.swiglu, lambda gate, up: nn.silu(gate) * up, 2),
    ],
    ids=["rms norm", "swiglu"],
)
def test_gradients_are_those_of_autodiff(ours, plain, inputs, dtype):
    rng = np.random.default_rng(0)
    args = [jnp.asarray(4 * rng.standard_normal((3, 5, 16)), dtype) for _ in range(inputs)]
    weight = jnp.asarray(rng.standard_normal((3, 5, 16)), dtype)
    np.testing.assert_array_equal(jax.jit(ours)(*args), jax.jit(plain)(*args))

    def gradients(f):
        total = lambda *args: jnp.vdot(f(*args).astype(jnp.float32), weight.astype(jnp.float32))  # noqa: E731
        return jax.jit(jax.grad(total, argnums=tuple(range(inputs))))(*args)

    found, wanted = gradients(ours), gradients(plain)
    chex.assert_trees_all_equal_shapes_and_dtypes(found, wanted)
    tolerance = 1e-5 if dtype == "float32" else 3e-2
    chex.assert_trees_all_close(found, wanted, rtol=tolerance, atol=tolerance)
