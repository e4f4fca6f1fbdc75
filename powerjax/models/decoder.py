"""The decoder-only transformer of Qwen2 and Phi3, in Linen: cache in, cache out.

Variables: "params", and where there is an adapter "lora" (see models/lora.py).

Shape letters, here and in every file of this package: B rows, S cache slots, T tokens, N query
heads, K kv heads, H head dim, D model, F ffw, V vocabulary, L layers. Kernels are [in, out].
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from powerjax.models import lora, rope
from powerjax.models.attention import attention
from powerjax.models.cache import KVCache, cache_sharding, write_layer
from powerjax.models.config import ModelConfig
from powerjax.models.sharding import param_sharding


def precision(dtype) -> jax.lax.Precision | None:
    """Full precision for float32 and wider (no TF32, no bfloat16 passes); default below."""
    return jax.lax.Precision.HIGHEST if jnp.dtype(dtype).itemsize >= 4 else None


def gather(params: dict, config: ModelConfig, mesh: Mesh | None, path: str = "") -> dict:
    """The parameters below `path` ("layers_0/"), split over "model" alone, as they are used.

    Those that are split over "data" as well are gathered there; for the others nothing happens.
    """
    if mesh is None or mesh.shape["data"] == 1:
        return params

    def whole(keys, x):
        name = path + "/".join(key.key for key in keys)
        place = param_sharding(name, x.shape, config, mesh)
        return jax.lax.with_sharding_constraint(x, place)

    return jax.tree_util.tree_map_with_path(whole, params)


@jax.custom_vjp
def fork(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(x, x), the first for weights, the second for their adapters.

    In the backward pass the weights' products then meet in one sum, which "model" reduces once;
    with the adapters' in between it reduces them one by one, five times a layer and not twice.
    """
    return x, x


fork.defvjp(lambda x: ((x, x), None), lambda _, grads: (grads[0] + grads[1],))


@jax.custom_vjp
def by_row(x: jax.Array, factor: jax.Array) -> jax.Array:
    """x[...,D] * factor[...,1], whose gradient is a product of rows.

    Autodiff's sum of a product takes XLA on CPUs seven times as long.
    """
    return x * factor


def _by_row_backward(saved, d_y):
    x, factor = saved
    d_factor = jnp.einsum("...d,...d->...", d_y, x, precision=jax.lax.Precision.HIGHEST)
    return d_y * factor, d_factor[..., None]


by_row.defvjp(lambda x, factor: (x * factor, (x, factor)), _by_row_backward)


class RMSNorm(nn.Module):
    """x / rms(x) * scale, the mean square taken in float32."""

    epsilon: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), self.dtype)
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        wide = by_row(wide, jax.lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + self.epsilon))
        return scale * wide.astype(x.dtype)


class Linear(nn.Module):
    """x @ kernel[in,out] (+ bias) (+ its adapter's low-rank product)."""

    features: int
    config: ModelConfig
    dtype: jnp.dtype
    use_bias: bool = False

    @nn.compact
    def __call__(self, x, dropout: lora.Dropout | None = None, adapter_x=None) -> jax.Array:
        """x[B,T,in] -> [B,T,out]; `adapter_x` is x again, where it was forked."""
        init = nn.initializers.normal(self.config.initializer_range)
        kernel = self.param("kernel", init, (x.shape[-1], self.features), self.dtype)
        y = jnp.matmul(x, kernel, precision=precision(self.dtype))
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (self.features,), self.dtype)
        if self.has_variable("lora", "lora_a"):
            x = x if adapter_x is None else adapter_x
            a, b = self.get_variable("lora", "lora_a"), self.get_variable("lora", "lora_b")
            mask = None if dropout is None else dropout.mask("/".join(self.path))
            y = (y + lora.low_rank(x, a, b, precision(self.dtype), mask)).astype(self.dtype)
        return y


class SelfAttention(nn.Module):
    """Grouped-query attention with rotary positions."""

    config: ModelConfig
    dtype: jnp.dtype
    implementation: str | None = None
    mesh: Mesh | None = None  # where it is split over "model"

    def setup(self):
        c = self.config
        self.q_proj = Linear(c.num_heads * c.head_dim, c, self.dtype, c.qkv_bias)
        self.k_proj = Linear(c.num_kv_heads * c.head_dim, c, self.dtype, c.qkv_bias)
        self.v_proj = Linear(c.num_kv_heads * c.head_dim, c, self.dtype, c.qkv_bias)
        self.o_proj = Linear(c.hidden_size, c, self.dtype)

    def __call__(self, x, positions, cos_sin, layer_cache, dropout=None):
        """x[B,T,D] and one layer's (k, v) or None -> y[B,T,D] and that layer's new (k, v)."""
        batch, num_tokens, _ = x.shape
        head_dim = self.config.head_dim
        x, side = fork(x) if self.mesh is not None else (x, None)
        q = self.q_proj(x, dropout, side).reshape(batch, num_tokens, -1, head_dim)
        k = self.k_proj(x, dropout, side).reshape(batch, num_tokens, -1, head_dim)
        v = self.v_proj(x, dropout, side).reshape(batch, num_tokens, -1, head_dim)
        q, k = rope.rotate(q, *cos_sin), rope.rotate(k, *cos_sin)
        if layer_cache is None:
            keys, values = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)
        else:
            place = None if self.mesh is None else cache_sharding(self.config, self.mesh)
            keys, values = write_layer(*layer_cache, k, v, positions, place)
        out = attention(
            q,
            keys,
            values,
            positions,
            whole=layer_cache is None,
            implementation=self.implementation,
        )
        return self.o_proj(out.reshape(batch, num_tokens, -1), dropout), (keys, values)


class MLP(nn.Module):
    """down( silu(gate(x)) * up(x) )."""

    config: ModelConfig
    dtype: jnp.dtype
    split: bool = False  # over "model"

    def setup(self):
        c = self.config
        self.gate_proj = Linear(c.intermediate_size, c, self.dtype)
        self.up_proj = Linear(c.intermediate_size, c, self.dtype)
        self.down_proj = Linear(c.hidden_size, c, self.dtype)

    def __call__(self, x: jax.Array, dropout: lora.Dropout | None = None) -> jax.Array:
        x, side = fork(x) if self.split else (x, None)
        gated = nn.silu(self.gate_proj(x, dropout, side)) * self.up_proj(x, dropout, side)
        return self.down_proj(gated, dropout)


class Block(nn.Module):
    """One pre-norm layer."""

    config: ModelConfig
    dtype: jnp.dtype
    implementation: str | None = None
    mesh: Mesh | None = None  # where it is split over "model"

    def setup(self):
        epsilon = self.config.rms_norm_eps
        self.input_layernorm = RMSNorm(epsilon, self.dtype)
        self.self_attn = SelfAttention(self.config, self.dtype, self.implementation, self.mesh)
        self.post_attention_layernorm = RMSNorm(epsilon, self.dtype)
        self.mlp = MLP(self.config, self.dtype, self.mesh is not None)

    def __call__(self, x, positions, cos_sin, layer_cache, dropout=None):
        with jax.named_scope("attention"):
            y, layer_cache = self.self_attn(
                self.input_layernorm(x), positions, cos_sin, layer_cache, dropout
            )
            x = x + y
        with jax.named_scope("mlp"):
            x = x + self.mlp(self.post_attention_layernorm(x), dropout)
        return x, layer_cache


class Embedding(nn.Module):
    """Token embedding [V,D]; `attend` is the tied unembedding."""

    config: ModelConfig
    dtype: jnp.dtype

    def setup(self):
        init = nn.initializers.normal(self.config.initializer_range)
        shape = (self.config.vocab_size, self.config.hidden_size)
        self.embedding = self.param("embedding", init, shape, self.dtype)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        return self.embedding[tokens]

    def attend(self, hidden: jax.Array) -> jax.Array:
        return jnp.einsum(
            "...d,vd->...v",
            hidden,
            self.embedding,
            precision=precision(self.dtype),
            preferred_element_type=jnp.promote_types(self.dtype, jnp.float32),
        )


class Unembedding(nn.Module):
    """Untied unembedding, kernel [D,V]."""

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


class CausalLM(nn.Module):
    """Qwen2 or Phi3, by config. `long_context` selects longrope's long factors for the run.

    `dtype` is that of parameters, activations and cache; logits are float32 (float64 for a
    float64 model). `init` calls the whole path, unembedding included. `remat` recomputes each layer
    in the backward pass, so that only the layers' inputs are kept (gradient checkpointing).

    `mesh` says where activations belong: rows on "data", which must divide them. Parameters split
    over "data" are gathered layer by layer, and again in the backward pass. Without it XLA decides,
    and may move the activations to the weights instead.
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
        if self.mesh is not None:
            block = nn.map_variables(Block, "params", self._gather)
        if self.remat:  # outside the gathering, so that no gathered weight is kept
            block = nn.remat(block)
        split = self.mesh is not None and self.mesh.shape["model"] > 1
        mesh = self.mesh if split else None
        self.layers = [block(c, self.dtype, self.implementation, mesh) for _ in range(c.num_layers)]
        self.norm = RMSNorm(c.rms_norm_eps, self.dtype)
        if not c.tie_word_embeddings:
            self.lm_head = Unembedding(c, self.dtype)

    def __call__(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        cache: KVCache | None = None,
        dropout: lora.Dropout | None = None,
    ) -> tuple[jax.Array, KVCache]:
        """tokens, positions int32[B,T] -> hidden[B,T,D] after the final norm, and the cache.

        Without a cache the keys are the T fresh ones, positions must be 0..T-1 in each row, and
        the cache returned holds exactly those T slots. With one, K/V are written at `positions`
        first and attention then reads every slot <= the query's position. `dropout` acts on the
        adapters' inputs, in training only.
        """
        if self.is_initializing():
            self.unembed(jnp.zeros((1, self.config.hidden_size), self.dtype))
        with jax.named_scope("embed"):
            x = self.embed_tokens(tokens)
        cos_sin = rope.cos_sin(positions, self.config, self.long_context)
        keys, values = [], []
        for i, layer in enumerate(self.layers):
            layer_cache = None if cache is None else (cache.k[i], cache.v[i])
            with jax.named_scope(f"layer_{i}"):
                x, (k, v) = layer(self._by_rows(x), positions, cos_sin, layer_cache, dropout)
            keys.append(k)
            values.append(v)
        return self.norm(self._by_rows(x)), KVCache(tuple(keys), tuple(values))

    def _gather(self, variables: dict) -> dict:
        params = gather(variables["params"], self.config, self.mesh, "layers_0/")
        return variables | {"params": params}

    def _by_rows(self, x: jax.Array) -> jax.Array:
        if self.mesh is None or self.mesh.size == 1:
            return x
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, P("data")))

    def unembed(self, hidden: jax.Array) -> jax.Array:
        """hidden[...,D] -> float32 logits[...,V]."""
        with jax.named_scope("unembed"):
            if self.config.tie_word_embeddings:
                return self._by_vocabulary(self.embed_tokens.attend(hidden))
            return self._by_vocabulary(self.lm_head(hidden))

    def _by_vocabulary(self, logits: jax.Array) -> jax.Array:
        """Split as the weights are: who wants them whole gathers these, and not the weights."""
        if self.mesh is None or self.mesh.shape["model"] == 1:
            return logits
        if self.config.vocab_size % self.mesh.shape["model"]:
            return logits
        spec = P(*[P.UNCONSTRAINED] * (logits.ndim - 1), "model")
        return jax.lax.with_sharding_constraint(logits, NamedSharding(self.mesh, spec))
