"""The Llama decoder in MLX, with the fused kernels of `mx.fast`. Parameter names are Hugging Face's."""

from __future__ import annotations

import math

import mlx.core as mx
import mlx.nn as nn

from mlxrlhf.config import ModelConfig

#: float32 logits held at once, in elements: 32M is 128 MB
LOGITS_CHUNK = 2**25


class LoRALinear(nn.Module):
    """A frozen linear layer plus a trained low-rank update (Hu et al. 2021): y = W x + scale * (x A) B.

    A (in, r) and B (r, out) have mlx-lm's names and layout; B starts at zero, so training starts at the base.
    """

    def __init__(self, base: nn.Linear, rank: int, scale: float):
        super().__init__()
        out_dims, in_dims = base.weight.shape
        self.linear = base
        self.lora_a = mx.random.uniform(-1 / math.sqrt(in_dims), 1 / math.sqrt(in_dims), (in_dims, rank))
        self.lora_b = mx.zeros((rank, out_dims))
        self.scale = scale
        self.enabled = True

    def __call__(self, x):
        y = self.linear(x)
        if not self.enabled:
            return y
        # The float32 adapters are cast, not x: a float32 copy of every input would be kept for the backward pass.
        low = self.scale * (x @ self.lora_a.astype(x.dtype))  # (..., r): the cheap place to scale
        return mx.addmm(y, low, self.lora_b.astype(x.dtype))

    def merged(self) -> mx.array:
        """The weight (out, in) with the update added, float32."""
        return self.linear.weight.astype(mx.float32) + self.scale * (self.lora_a @ self.lora_b).T


class KVCache:
    """Keys and values of one layer, (B, kv heads, positions, head dim), grown 64 positions at a time."""

    def __init__(self):
        self.keys = self.values = None
        self.length = 0

    def append(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        end = self.length + keys.shape[2]
        if self.keys is None or end > self.keys.shape[2]:
            room = list(keys.shape)
            room[2] = -(-(end - self.length) // 64) * 64
            if self.keys is None:
                self.keys, self.values = mx.zeros(room, keys.dtype), mx.zeros(room, values.dtype)
            else:
                self.keys = mx.concatenate([self.keys[:, :, : self.length], mx.zeros(room, keys.dtype)], axis=2)
                self.values = mx.concatenate([self.values[:, :, : self.length], mx.zeros(room, values.dtype)], axis=2)
        self.keys[:, :, self.length : end] = keys
        self.values[:, :, self.length : end] = values
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def keep(self, rows: mx.array) -> None:
        """The batch becomes these rows: finished ones leave, a shared prompt is repeated."""
        self.keys, self.values = self.keys[rows], self.values[rows]


class Attention(nn.Module):
    def __init__(self, c: ModelConfig):
        super().__init__()
        self.c = c
        self.q_proj = nn.Linear(c.hidden_size, c.num_heads * c.head_dim, bias=c.attention_bias)
        self.k_proj = nn.Linear(c.hidden_size, c.num_kv_heads * c.head_dim, bias=c.attention_bias)
        self.v_proj = nn.Linear(c.hidden_size, c.num_kv_heads * c.head_dim, bias=c.attention_bias)
        self.o_proj = nn.Linear(c.num_heads * c.head_dim, c.hidden_size, bias=c.attention_bias)
        self._freqs = rope_frequencies(c)  # a leading underscore keeps it out of the parameters

    def __call__(self, x, mask, offset, cache: KVCache | None):
        c, (rows, length, _) = self.c, x.shape
        q = self.q_proj(x).reshape(rows, length, c.num_heads, c.head_dim).swapaxes(1, 2)
        k = self.k_proj(x).reshape(rows, length, c.num_kv_heads, c.head_dim).swapaxes(1, 2)
        v = self.v_proj(x).reshape(rows, length, c.num_kv_heads, c.head_dim).swapaxes(1, 2)
        base = None if self._freqs is not None else c.rope_theta
        q = mx.fast.rope(q, c.head_dim, traditional=False, base=base, scale=1.0, offset=offset, freqs=self._freqs)
        k = mx.fast.rope(k, c.head_dim, traditional=False, base=base, scale=1.0, offset=offset, freqs=self._freqs)
        if cache is not None:
            k, v = cache.append(k, v)
        y = mx.fast.scaled_dot_product_attention(q, k, v, scale=c.head_dim**-0.5, mask=mask)
        return self.o_proj(y.swapaxes(1, 2).reshape(rows, length, -1))


def rope_frequencies(c: ModelConfig) -> mx.array | None:
    """Wavelength per pair of dimensions for llama3 scaling (Llama 3.1's config), or None for plain RoPE."""
    s = c.rope_scaling
    if not s:
        return None
    freqs = c.rope_theta ** (mx.arange(0, c.head_dim, 2) / c.head_dim)
    kind = s.get("rope_type", s.get("type"))
    if kind == "linear":
        return freqs * s["factor"]
    if kind != "llama3":
        raise ValueError(f"rope scaling {kind!r} is not supported")
    low, high, context = s["low_freq_factor"], s["high_freq_factor"], s["original_max_position_embeddings"]
    wavelengths = 2 * math.pi * freqs
    smooth = (context / wavelengths - low) / (high - low)
    middle = freqs / ((1 - smooth) / s["factor"] + smooth)
    scaled = mx.where(wavelengths > context / low, freqs * s["factor"], middle)
    return mx.where(wavelengths < context / high, freqs, scaled)


class MLP(nn.Module):
    def __init__(self, c: ModelConfig):
        super().__init__()
        self.gate_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=c.mlp_bias)
        self.up_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=c.mlp_bias)
        self.down_proj = nn.Linear(c.intermediate_size, c.hidden_size, bias=c.mlp_bias)

    def __call__(self, x):
        return self.down_proj(nn.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, c: ModelConfig):
        super().__init__()
        self.self_attn = Attention(c)
        self.mlp = MLP(c)
        self.input_layernorm = nn.RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(c.hidden_size, c.rms_norm_eps)

    def __call__(self, x, mask, offset, cache=None):
        x = x + self.self_attn(self.input_layernorm(x), mask, offset, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    def __init__(self, c: ModelConfig):
        super().__init__()
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        self.layers = [Block(c) for _ in range(c.num_layers)]
        self.norm = nn.RMSNorm(c.hidden_size, c.rms_norm_eps)


class Llama(nn.Module):
    """Token ids to hidden states, and hidden states to log-probabilities."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.gradient_checkpointing = False

    def initialise(self, seed: int) -> None:
        """Normal(0, 0.02), residual outputs scaled by 1/sqrt(2 layers) (Radford et al. 2019); norms at 1."""
        key = mx.random.key(seed)
        scaled = 0.02 / math.sqrt(2 * self.config.num_layers)

        def draw(path, module):
            nonlocal key
            if isinstance(module, (nn.Linear, nn.Embedding)):
                key, sub = mx.random.split(key)
                std = scaled if path.endswith(("o_proj", "down_proj")) else 0.02
                module.weight = mx.random.normal(module.weight.shape, key=sub) * std
                if "bias" in module:
                    module.bias = mx.zeros_like(module.bias)

        self.apply_to_modules(draw)

    @property
    def layers(self) -> list[Block]:
        """The blocks that adapters go into."""
        return self.model.layers

    def head_weight(self) -> mx.array:
        """(V, d)"""
        return self.model.embed_tokens.weight if self.config.tie_word_embeddings else self.lm_head.weight

    def __call__(
        self,
        tokens: mx.array,
        segments: mx.array | None = None,
        *,
        mask=None,
        offset=0,
        caches: list[KVCache] | None = None,
    ) -> mx.array:
        """Hidden states (B, T, d) of tokens (B, T).

        segments (B, T) number the documents of a packed row (0: padding): attention never crosses them. RoPE depends
        on distances only, so positions need not restart at a segment or after left padding.
        """
        if mask is None:
            mask = "causal" if segments is None else segment_mask(segments)
        x = self.model.embed_tokens(tokens)
        for i, block in enumerate(self.model.layers):
            if self.gradient_checkpointing:
                x = nn.utils.checkpoint(block)(x, mask, offset)
            else:
                x = block(x, mask, offset, caches[i] if caches else None)
        return self.model.norm(x)

    def logits(self, hidden: mx.array) -> mx.array:
        """(..., d) to (..., V), in the trunk's precision."""
        return hidden @ self.head_weight().T


def segment_mask(segments: mx.array) -> mx.array:
    """Boolean (B, 1, T, T): causal, within one segment. Padding attends to padding, so that no row is empty."""
    positions = mx.arange(segments.shape[1])
    causal = positions[:, None] >= positions[None, :]
    return (causal & (segments[:, :, None] == segments[:, None, :]))[:, None]


def token_statistics(
    hidden: mx.array,
    weight: mx.array,
    targets: mx.array,
    temperature: float,
    *,
    entropy: bool = False,
    reference: tuple[mx.array, mx.array] | None = None,
) -> dict[str, mx.array]:
    """Log-probability of each target and, where asked, entropy and KL from a reference, in chunks of tokens.

    hidden (N, d), weight (V, d), targets (N,); reference = (hidden (N, d), weight (V, d)). Each output is (N,)
    float32. More than one chunk is recomputed in the backward pass, so that (N, V) logits never exist at once.
    """

    def scaled(h, w):
        logits = (h @ w.T).astype(mx.float32)
        return logits if temperature == 1 else logits / temperature

    def chunk(h, w, t, *ref):
        logits = scaled(h, w)
        norm = mx.logsumexp(logits, axis=-1)
        picked = mx.stop_gradient(t)[:, None]  # recomputation would ask for a gradient of the indices
        outputs = [mx.take_along_axis(logits, picked, axis=-1)[:, 0] - norm]
        if entropy or ref:
            logprobs = logits - norm[:, None]
            probs = mx.exp(logprobs)
        if entropy:
            outputs.append(-(probs * logprobs).sum(axis=-1))
        if ref:
            ref_logits = scaled(*ref)
            ref_logprobs = ref_logits - mx.logsumexp(ref_logits, axis=-1, keepdims=True)
            outputs.append((probs * (logprobs - ref_logprobs)).sum(axis=-1))
        return tuple(outputs)

    size = max(1, LOGITS_CHUNK // weight.shape[0])
    run = chunk if hidden.shape[0] <= size else mx.checkpoint(chunk)
    parts = []
    for i in range(0, hidden.shape[0], size):
        ref = (reference[0][i : i + size], reference[1]) if reference is not None else ()
        parts.append(run(hidden[i : i + size], weight, targets[i : i + size], *ref))
    columns = [mx.concatenate(column) for column in zip(*parts)]
    names = ["logp"] + ["entropy"] * entropy + ["kl"] * (reference is not None)
    return dict(zip(names, columns))
