"""The decoder-only transformer of every family in families.py, in Linen.

It takes a K/V cache and returns the new one. Its variables are "params", and "lora" where there is
an adapter (see models/lora).

Shape letters, here and in every file of this package: B rows, S cache slots, T tokens, N query
heads, K kv heads, H head dim, D model, F ffw, V vocabulary, L layers. Kernels are [in, out].
"""

import functools
import threading
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from powerjax.models import lora, rope
from powerjax.models.attention import attention
from powerjax.models.cache import KVCache, cache_sharding, write_layer
from powerjax.models.config import ModelConfig
from powerjax.models.layers import Embedding, Linear, Unembedding, fork, rms_norm
from powerjax.models.layers import RMSNorm as RMSNorm  # earlier versions had it here
from powerjax.models.layers import by_row as by_row  # and this
from powerjax.models.layers import precision as precision  # and this
from powerjax.models.sharding import param_sharding

_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": nn.silu,
    "gelu_pytorch_tanh": functools.partial(nn.gelu, approximate=True),
}
# Flax makes a class for each transformation, and changes the fields of the classes above while it
# does. The engines of a mesh trace their models in threads.
_MAKING_CLASSES = threading.Lock()


def gather(
    params: dict[str, Any], config: ModelConfig, mesh: Mesh | None, path: str = ""
) -> dict[str, Any]:
    """Returns `params` as products use them: split over "model" alone, and gathered over "data".

    Parameters that are not split over "data" stay as they are, and so do all without a mesh.

    path: where `params` stand in the model's pytree, such as "layers_0/".
    """
    if mesh is None or mesh.shape["data"] == 1:
        return params

    def whole(keys, x):
        name = path + "/".join(key.key for key in keys)
        place = param_sharding(name, x.shape, config, mesh)
        return jax.lax.with_sharding_constraint(x, place)

    return jax.tree_util.tree_map_with_path(whole, params)


class SelfAttention(nn.Module):
    """Grouped-query attention with rotary positions.

    implementation: the kernel behind it, see attention.py.
    mesh: the devices, if the layer is split over the mesh's "model" axis; None if it is not.
    window: how many tokens each token sees, itself included; None for all.
    """

    config: ModelConfig
    dtype: jnp.dtype
    implementation: str | None = None
    mesh: Mesh | None = None
    window: int | None = None

    def setup(self):
        c = self.config
        self.q_proj = Linear(c.num_heads * c.head_dim, c, self.dtype, c.qkv_bias)
        self.k_proj = Linear(c.num_kv_heads * c.head_dim, c, self.dtype, c.qkv_bias)
        self.v_proj = Linear(c.num_kv_heads * c.head_dim, c, self.dtype, c.qkv_bias)
        self.o_proj = Linear(c.hidden_size, c, self.dtype, c.o_bias)
        has_norms = c.family.qk_norm is not None
        self.q_norm = rms_norm(c, self.dtype) if has_norms else None
        self.k_norm = rms_norm(c, self.dtype) if has_norms else None

    def __call__(self, x, positions, cos_sin, layer_cache, dropout=None):
        """Returns y[B,T,D] and this layer's new (k, v), each [B,K,S,H].

        Args:
          x: [B,T,D].
          positions: int32[B,T].
          cos_sin: the factors of `rope.cos_sin`.
          layer_cache: this layer's (k, v), each [B,K,S,H]; None for whole sequences, whose new
            (k, v) are then those of the T tokens.
          dropout: drops inputs of the adapters, in training only.
        """
        batch, num_tokens, _ = x.shape
        x, side = fork(x) if self.mesh is not None else (x, None)
        q = self._heads(self.q_proj(x, dropout, side), self.q_norm)
        k = self._heads(self.k_proj(x, dropout, side), self.k_norm)
        v = self._heads(self.v_proj(x, dropout, side))
        q, k = rope.rotate(q, *cos_sin, self.config.query_factor), rope.rotate(k, *cos_sin)
        place = None if self.mesh is None else cache_sharding(self.config, self.mesh)
        if layer_cache is None:
            keys, values = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)
        else:
            keys, values = write_layer(*layer_cache, k, v, positions, place)
        out = attention(
            q,
            keys,
            values,
            positions,
            whole=layer_cache is None,
            implementation=self.implementation,
            window=self.window,
            place=place,
        )
        return self.o_proj(out.reshape(batch, num_tokens, -1), dropout), (keys, values)

    def _heads(self, y: jax.Array, norm: nn.Module | None = None) -> jax.Array:
        """Returns y[B,T,N*H] as [B,T,N,H], normed as a whole or head by head if there is a norm."""
        if norm is not None and self.config.family.qk_norm == "all":
            y = norm(y)
        y = y.reshape(*y.shape[:2], -1, self.config.head_dim)
        return norm(y) if norm is not None and self.config.family.qk_norm == "head" else y


class MLP(nn.Module):
    """The gated feed-forward block: down( activation(gate(x)) * up(x) )."""

    config: ModelConfig
    dtype: jnp.dtype
    split: bool = False  # whether it is split over the mesh's "model" axis

    def setup(self):
        c = self.config
        self.gate_proj = Linear(c.intermediate_size, c, self.dtype, c.mlp_bias)
        self.up_proj = Linear(c.intermediate_size, c, self.dtype, c.mlp_bias)
        self.down_proj = Linear(c.hidden_size, c, self.dtype, c.mlp_bias)

    def __call__(self, x: jax.Array, dropout: lora.Dropout | None = None) -> jax.Array:
        x, side = fork(x) if self.split else (x, None)
        activation = _ACTIVATIONS[self.config.family.activation]
        gated = activation(self.gate_proj(x, dropout, side)) * self.up_proj(x, dropout, side)
        return self.down_proj(gated, dropout)


class Block(nn.Module):
    """One layer, with norms where its family has them (`families.LayerNorms`).

    The fields are those of `SelfAttention`.
    """

    config: ModelConfig
    dtype: jnp.dtype
    implementation: str | None = None
    mesh: Mesh | None = None
    window: int | None = None

    def setup(self):
        for name in filter(None, self.config.family.layer_norms):
            setattr(self, name, rms_norm(self.config, self.dtype))
        self.self_attn = SelfAttention(
            self.config, self.dtype, self.implementation, self.mesh, self.window
        )
        self.mlp = MLP(self.config, self.dtype, self.mesh is not None)

    def __call__(self, x, positions, cos_sin, layer_cache, dropout=None):
        norms = self.config.family.layer_norms
        with jax.named_scope("attention"):
            y = self._normed(norms.before_attention, x)
            y, layer_cache = self.self_attn(y, positions, cos_sin, layer_cache, dropout)
            x = x + self._normed(norms.after_attention, y)
        with jax.named_scope("mlp"):
            y = self.mlp(self._normed(norms.before_mlp, x), dropout)
            x = x + self._normed(norms.after_mlp, y)
        return x, layer_cache

    def _normed(self, name: str | None, x: jax.Array) -> jax.Array:
        """Returns the norm of that name of x, or x where there is none."""
        return x if name is None else getattr(self, name)(x)


class CausalLM(nn.Module):
    """The whole decoder. `__call__` gives hidden states, `unembed` their logits.

    `init` calls both, so that the unembedding is initialised too.

    dtype: the dtype of parameters, activations and cache. Logits are float32, or float64 in a
        float64 model.
    long_context: whether longrope's long factors are used, one choice per run.
    implementation: the kernel behind attention, see attention.py.
    remat: whether each layer is computed again in the backward pass, so that only the layers'
        inputs are kept (gradient checkpointing).
    mesh: where activations belong: their rows are split over "data", which must divide them.
        Parameters that are split over "data" are then gathered layer by layer, and once more in the
        backward pass. With None XLA decides, and may move activations to the weights instead.
    """

    config: ModelConfig
    dtype: jnp.dtype = jnp.float32
    long_context: bool = False
    implementation: str | None = None
    remat: bool = False
    mesh: Mesh | None = None

    def setup(self):
        c = self.config
        self.embed_tokens = Embedding(c, self.dtype)
        block = Block
        with _MAKING_CLASSES:
            if self.mesh is not None:
                block = nn.map_variables(Block, "params", self._gather)
            if self.remat:  # outside the gathering, so that no gathered weight is kept
                block = nn.remat(block)
        split = self.mesh is not None and self.mesh.shape["model"] > 1
        mesh = self.mesh if split else None
        self.layers = [
            block(c, self.dtype, self.implementation, mesh, c.window(i))
            for i in range(c.num_layers)
        ]
        self.norm = rms_norm(c, self.dtype)
        if not c.tie_word_embeddings:
            self.lm_head = Unembedding(c, self.dtype)

    def __call__(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        cache: KVCache | None = None,
        dropout: lora.Dropout | None = None,
    ) -> tuple[jax.Array, KVCache]:
        """Returns hidden[B,T,D] after the final norm, and the new cache.

        Args:
          tokens: int32[B,T].
          positions: int32[B,T], each token's place in its row; 0..T-1 without a cache.
          cache: its slots are written at `positions` first; each query then sees the slots up to
            its own position. With None the tokens are whole sequences that see themselves alone,
            and the new cache holds exactly their T slots.
          dropout: drops inputs of the adapters, in training only.
        """
        if self.is_initializing():
            self.unembed(jnp.zeros((1, self.config.hidden_size), self.dtype))
        with jax.named_scope("embed"):
            x = self.embed_tokens(tokens)
            if self.config.family.scaled_embeddings:
                x = x * jnp.asarray(np.float32(self.config.hidden_size**0.5), self.dtype)
        cos_sin = local = rope.cos_sin(positions, self.config, self.long_context)
        if self.config.local_rope is not None:
            local = rope.cos_sin(positions, self.config, self.long_context, local=True)
        keys, values = [], []
        for i, layer in enumerate(self.layers):
            layer_cache = None if cache is None else (cache.k[i], cache.v[i])
            turns = cos_sin if self.config.window(i) is None else local
            with jax.named_scope(f"layer_{i}"):
                x, (k, v) = layer(self._by_rows(x), positions, turns, layer_cache, dropout)
            keys.append(k)
            values.append(v)
        return self.norm(self._by_rows(x)), KVCache(tuple(keys), tuple(values))

    def _gather(self, variables: dict[str, Any]) -> dict[str, Any]:
        """Gathers one layer's parameters; the specs of all layers are those of layer 0."""
        params = gather(variables["params"], self.config, self.mesh, "layers_0/")
        return variables | {"params": params}

    def _by_rows(self, x: jax.Array) -> jax.Array:
        """Splits activations x[B,...] by rows over "data"."""
        if self.mesh is None or self.mesh.size == 1:
            return x
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, P("data")))

    def unembed(self, hidden: jax.Array) -> jax.Array:
        """Returns logits[...,V] of hidden[...,D], in float32 or wider."""
        with jax.named_scope("unembed"):
            if self.config.tie_word_embeddings:
                return self._by_vocabulary(self.embed_tokens.attend(hidden))
            return self._by_vocabulary(self.lm_head(hidden))

    def _by_vocabulary(self, logits: jax.Array) -> jax.Array:
        """Splits logits[...,V] over "model", as the unembedding's weights are.

        Whoever needs whole logits then gathers the logits. Without this XLA may gather the weights.
        """
        if self.mesh is None or self.mesh.shape["model"] == 1:
            return logits
        if self.config.vocab_size % self.mesh.shape["model"]:
            return logits
        spec = P(*[P.UNCONSTRAINED] * (logits.ndim - 1), "model")
        return jax.lax.with_sharding_constraint(logits, NamedSharding(self.mesh, spec))
