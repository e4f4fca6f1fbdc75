"""The simple layers that the decoder is made of: norms, linear layers, embeddings.

Letters as in decoder.py.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from powerjax.models import lora
from powerjax.models.config import ModelConfig


def precision(dtype) -> jax.lax.Precision | None:
    """Returns HIGHEST for float32 and wider, so that no TF32 or bfloat16 passes are taken.

    For narrower dtypes it returns None, XLA's default.
    """
    return jax.lax.Precision.HIGHEST if jnp.dtype(dtype).itemsize >= 4 else None


@jax.custom_vjp
def fork(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns (x, x): the first for weights, the second for their adapters.

    The backward pass then sums the gradients that come through the weights, and apart from them
    those that come through the adapters. Each sum over the weights is one all-reduce over the
    "model" axis, two per layer. Without the fork the adapters' terms stand between the weights'
    terms, and XLA reduces each of these by itself, five per layer.
    """
    return x, x


fork.defvjp(lambda x: ((x, x), None), lambda _, grads: (grads[0] + grads[1],))


@jax.custom_vjp
def by_row(x: jax.Array, factor: jax.Array) -> jax.Array:
    """Returns x[...,D] * factor[...,1], with a gradient of its own.

    The factor's gradient is computed as one dot product per row. Autodiff would multiply
    elementwise and then sum, which takes XLA on CPUs seven times as long.
    """
    return x * factor


def _by_row_backward(saved, d_y):
    x, factor = saved
    d_factor = jnp.einsum("...d,...d->...", d_y, x, precision=jax.lax.Precision.HIGHEST)
    return d_y * factor, d_factor[..., None]


by_row.defvjp(lambda x, factor: (x * factor, (x, factor)), _by_row_backward)


class RMSNorm(nn.Module):
    """Computes x / rms(x) * (offset + scale), with the mean square in float32.

    offset: what the family's norms add to the weight that they store.
    wide: whether the product with the scale is made in float32 too, before it is rounded.
    """

    epsilon: float
    dtype: jnp.dtype
    offset: int = 0
    wide: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.initializers.constant(1 - self.offset)
        scale = self.param("scale", init, (x.shape[-1],), self.dtype)
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        wide = by_row(wide, jax.lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + self.epsilon))
        if self.wide:
            return ((self.offset + scale.astype(wide.dtype)) * wide).astype(x.dtype)
        return (self.offset + scale if self.offset else scale) * wide.astype(x.dtype)


def rms_norm(config: ModelConfig, dtype: jnp.dtype) -> RMSNorm:
    """Returns a norm as the model's family has it."""
    family = config.family
    return RMSNorm(config.rms_norm_eps, dtype, family.norm_offset, family.wide_norms)


class Linear(nn.Module):
    """Computes x @ kernel[in,out], plus a bias and an adapter's low-rank product if there are any.

    features: the size of the output.
    """

    features: int
    config: ModelConfig
    dtype: jnp.dtype
    use_bias: bool = False

    @nn.compact
    def __call__(self, x, dropout: lora.Dropout | None = None, adapter_x=None) -> jax.Array:
        """Maps x[B,T,in] to [B,T,out].

        dropout: drops inputs of the adapter, in training only.
        adapter_x: the second copy of x, where `fork` made one for the adapters.
        """
        init = nn.initializers.normal(self.config.initializer_range)
        kernel = self.param("kernel", init, (x.shape[-1], self.features), self.dtype)
        y = jnp.matmul(x, kernel, precision=precision(self.dtype))
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (self.features,), self.dtype)
        if self.has_variable("lora", "lora_a"):
            x = x if adapter_x is None else adapter_x
            a: jax.Array = self.get_variable("lora", "lora_a")
            b: jax.Array = self.get_variable("lora", "lora_b")
            mask = None if dropout is None else dropout.mask("/".join(self.path))
            delta = lora.low_rank(x, a, b, precision(self.dtype), mask)
            if self.has_variable("lora", "gate"):  # bool[B], whether a row has the adapter
                delta = jnp.where(self.get_variable("lora", "gate")[:, None, None], delta, 0)
            y = (y + delta).astype(self.dtype)
        return y


class Embedding(nn.Module):
    """The token embedding [V,D]. `attend` unembeds with the same table, for tied models."""

    config: ModelConfig
    dtype: jnp.dtype

    def setup(self):
        init = nn.initializers.normal(self.config.initializer_range)
        shape = (self.config.vocab_size, self.config.hidden_size)
        self.embedding = self.param("embedding", init, shape, self.dtype)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Returns [...,D] for tokens[...]."""
        return self.embedding[tokens]

    def attend(self, hidden: jax.Array) -> jax.Array:
        """Returns logits[...,V] of hidden[...,D], in float32 or wider."""
        return jnp.einsum(
            "...d,vd->...v",
            hidden,
            self.embedding,
            precision=precision(self.dtype),
            preferred_element_type=jnp.promote_types(self.dtype, jnp.float32),
        )


class Unembedding(nn.Module):
    """The unembedding of untied models: logits[...,V] of hidden[...,D], in float32 or wider."""

    config: ModelConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, hidden: jax.Array) -> jax.Array:
        init = nn.initializers.normal(self.config.initializer_range)
        shape = (self.config.hidden_size, self.config.vocab_size)
        return jnp.matmul(
            hidden,
            self.param("kernel", init, shape, self.dtype),
            precision=precision(self.dtype),
            preferred_element_type=jnp.promote_types(self.dtype, jnp.float32),
        )
