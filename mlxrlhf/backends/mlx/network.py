"""The Llama decoder in MLX, with the fused kernels of `mx.fast`, and what is computed from its states.

Parameter names are Hugging Face's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlxrlhf.algorithms.rollout import bucket
from mlxrlhf.backends.mlx.packed import Head
from mlxrlhf.backends.sampling import Prompts
from mlxrlhf.config import ModelConfig

#: float32 logits held at once, in elements: 32M is 128 MB
LOGITS_CHUNK = 2**25


class KVCache:
    """Keys and values of one layer, (B, kv heads, positions, head dim), grown 64 positions at a time."""

    def __init__(self) -> None:
        self.keys, self.values = mx.zeros((0, 0, 0, 0)), mx.zeros((0, 0, 0, 0))
        self.length = 0

    def append(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Returns all keys and values so far."""
        end = self.length + keys.shape[2]
        if end > self.keys.shape[2]:
            self.keys, self.values = self._grown(self.keys, keys), self._grown(self.values, values)
        self.keys[:, :, self.length : end] = keys
        self.values[:, :, self.length : end] = values
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def _grown(self, array: mx.array, new: mx.array) -> mx.array:
        rows, heads, positions, dims = new.shape
        room = mx.zeros((rows, heads, bucket(positions, 64), dims), new.dtype)
        return mx.concatenate([array[:, :, : self.length], room], axis=2) if self.length else room

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

    def __call__(self, x: mx.array, mask: mx.array | str, offset: int, cache: KVCache | None) -> mx.array:
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

    def __call__(self, x: mx.array) -> mx.array:
        return self.down_proj(nn.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, c: ModelConfig):
        super().__init__()
        self.self_attn = Attention(c)
        self.mlp = MLP(c)
        self.input_layernorm = nn.RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(c.hidden_size, c.rms_norm_eps)

    def __call__(self, x: mx.array, mask: mx.array | str, offset: int, cache: KVCache | None = None) -> mx.array:
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

    def lay_out(self, segments: np.ndarray) -> mx.array:
        """What `__call__` takes for the segments (B, T) of packed or padded rows."""
        return mx.array(segments)

    def head(self) -> Head:
        """The output layer."""
        return Head.of(self.model.embed_tokens if self.config.tie_word_embeddings else self.lm_head)

    def __call__(
        self,
        tokens: mx.array,
        segments: mx.array | None = None,
        *,
        mask: mx.array | str | None = None,
        offset: int = 0,
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
            if self.gradient_checkpointing and self.training:  # while sampling, a block must reach its cache
                x = nn.utils.checkpoint(block)(x, mask, offset)
            else:
                x = block(x, mask, offset, caches[i] if caches else None)
        return self.model.norm(x)

    def logits(self, hidden: mx.array) -> mx.array:
        """(..., d) to (..., V), in the trunk's precision."""
        return self.head().logits(hidden)

    def reading(self, prompts: Prompts) -> LlamaReading:
        """A batch to be sampled."""
        return LlamaReading(self, prompts)


def segment_mask(segments: mx.array) -> mx.array:
    """Boolean (B, 1, T, T): causal, within one segment. Padding attends to padding, so that no row is empty."""
    positions = mx.arange(segments.shape[1])
    causal = positions[:, None] >= positions[None, :]
    return (causal & (segments[:, :, None] == segments[:, None, :]))[:, None]


def token_statistics(
    hidden: mx.array,
    head: Head,
    targets: mx.array,
    temperature: float,
    *,
    entropy: bool = False,
    reference: tuple[mx.array, Head] | None = None,
) -> dict[str, mx.array]:
    """Log-probability of each target and, where asked, entropy and KL from a reference, in chunks of tokens.

    hidden (N, d), targets (N,); reference = (hidden (N, d), its output layer). Each output is (N,) float32. More than
    one chunk is recomputed in the backward pass, so that (N, V) logits never exist at once.
    """

    count = len(head.arrays)

    def scaled(head: Head, h: mx.array, arrays: Sequence[mx.array]) -> mx.array:
        logits = head.logits(h, arrays).astype(mx.float32)
        return logits if temperature == 1 else logits / temperature

    def chunk(h: mx.array, t: mx.array, *arrays: mx.array) -> tuple[mx.array, ...]:
        ref = arrays[count:]  # the reference's states, and its output layer's arrays
        logits = scaled(head, h, arrays[:count])
        norm = mx.logsumexp(logits, axis=-1)
        picked = mx.stop_gradient(t)[:, None]  # recomputation would ask for a gradient of the indices
        outputs = [mx.take_along_axis(logits, picked, axis=-1)[:, 0] - norm]
        if entropy or reference:
            logprobs = logits - norm[:, None]
            probs = mx.exp(logprobs)
        if entropy:
            outputs.append(-(probs * logprobs).sum(axis=-1))
        if reference:
            ref_logits = scaled(reference[1], ref[0], ref[1:])
            ref_logprobs = ref_logits - mx.logsumexp(ref_logits, axis=-1, keepdims=True)
            outputs.append((probs * (logprobs - ref_logprobs)).sum(axis=-1))
        return tuple(outputs)

    size = max(1, LOGITS_CHUNK // head.vocabulary)
    run = chunk if hidden.shape[0] <= size else mx.checkpoint(chunk)
    parts = []
    for i in range(0, hidden.shape[0], size):
        ref = (reference[0][i : i + size], *reference[1].arrays) if reference is not None else ()
        parts.append(run(hidden[i : i + size], targets[i : i + size], *head.arrays, *ref))
    columns = [mx.concatenate(list(column)) for column in zip(*parts)]
    names = ["logp", *(["entropy"] if entropy else []), *(["kl"] if reference is not None else [])]
    return dict(zip(names, columns))


class LlamaReading:
    """`Reading` of our decoder: prompts stand to the right of their padding, positions are columns."""

    def __init__(self, trunk: Llama, prompts: Prompts):
        self._trunk, self._prompts = trunk, prompts
        self._caches = [KVCache() for _ in trunk.layers]
        self._real = mx.array(prompts.real)
        self._end = prompts.width

    def prompts(self) -> mx.array:
        p = self._prompts
        mask = segment_mask(mx.array(p.real[:, : p.width].astype(np.int32))) if p.padded else "causal"
        return self._trunk(mx.array(p.tokens), mask=mask, caches=self._caches)[:, -1]

    def token(self, tokens: mx.array) -> mx.array:
        mask = self._real[:, None, None, : self._end + 1] if self._prompts.padded else "causal"
        hidden = self._trunk(tokens[:, None], mask=mask, offset=self._end, caches=self._caches)[:, -1]
        self._end += 1
        return hidden

    def keep(self, rows: mx.array) -> None:
        self._real = self._real[rows]
        for cache in self._caches:
            cache.keep(rows)


class Reading(Protocol):
    """A batch that is being sampled, as its trunk reads it: the keys and values of what was read."""

    def prompts(self) -> mx.array:
        """Read the distinct prompts. Returns the state (D, d) of the last token of each."""

    def token(self, tokens: mx.array) -> mx.array:
        """Read one more token of each row (B,). Returns their states (B, d)."""

    def keep(self, rows: mx.array) -> None:
        """The batch becomes these rows: a shared prompt is repeated, finished responses leave."""


class Trunk(Protocol):
    """What a network asks of its decoder: `Llama` here, or one of mlx-lm's (families.py)."""

    gradient_checkpointing: bool

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The blocks that adapters go into."""

    def lay_out(self, segments: np.ndarray) -> Any:
        """What `__call__` takes for the segments (B, T) of packed or padded rows."""

    def __call__(self, tokens: mx.array, segments: Any = None, /) -> mx.array:
        """Hidden states (B, T, d) of tokens (B, T)."""

    def head(self) -> Head:
        """The output layer."""

    def logits(self, hidden: mx.array) -> mx.array:
        """(..., d) to (..., V), in the trunk's precision."""

    def reading(self, prompts: Prompts) -> Reading:
        """A batch to be sampled."""

    def freeze(self) -> Any: ...


class ValueHead(nn.Module):
    """Linear(d, d/2) - ReLU - Linear(d/2, 1); the last layer starts at std `last_std`."""

    def __init__(self, dims: int, last_std: float = 0.0):
        super().__init__()
        self.hidden = nn.Linear(dims, dims // 2)
        self.out = nn.Linear(dims // 2, 1)
        self.out.weight = mx.random.normal(self.out.weight.shape) * last_std
        self.out.bias = mx.zeros_like(self.out.bias)

    def __call__(self, x: mx.array) -> mx.array:
        """(..., d) to (...), float32."""
        return self.out(nn.relu(self.hidden(x.astype(mx.float32)))).squeeze(-1)

    def load_saved(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take over `weights/NAME` of a save point or of a reward model."""
        prefix = "weights/"
        self.load_weights([(k.removeprefix(prefix), mx.array(v)) for k, v in arrays.items() if k.startswith(prefix)])


class Network(nn.Module):
    """A trunk and, for PPO, a value head."""

    def __init__(self, trunk: Trunk, dims: int, value_head: bool):
        super().__init__()
        self.trunk = trunk
        if value_head:
            self.value_head = ValueHead(dims)

    def __call__(
        self, batch: dict[str, Any], want: Sequence[str], temperature: float, reference_head: Head | None = None
    ) -> dict[str, mx.array]:
        """The outputs that `protocol.Model.evaluate` describes, of a batch that train.arrays_of made."""
        start = batch["start"]
        hidden = self.trunk(batch["tokens"], batch.get("segments"))
        window = hidden[:, start - 1 : -1]  # the state that predicts column `start` is one to its left
        out: dict[str, mx.array] = {}
        if {"logp", "entropy", "kl"} & set(want):
            out |= self._token_outputs(window, batch, want, temperature, reference_head)
        if {"features", "score"} & set(want):
            answer = batch["mask"][..., None]  # (B, R, 1)
            pooled = (hidden[:, start:].astype(mx.float32) * answer).sum(axis=1) / answer.sum(axis=1)
            out |= {"features": pooled} if "features" in want else {}
            out |= {"score": self.value_head(pooled)} if "score" in want else {}
        if "value" in want:
            # Detached: a value head that starts ignorant must not pull at the policy's features.
            out["value"] = self.value_head(running_mean(mx.stop_gradient(window).astype(mx.float32)))
        if "hidden" in want:
            out["hidden"] = window.astype(mx.float32)
        return out

    def _token_outputs(
        self,
        window: mx.array,
        batch: dict[str, Any],
        want: Sequence[str],
        temperature: float,
        reference_head: Head | None,
    ) -> dict[str, mx.array]:
        """logp and, where wanted, entropy and kl (B, R), from the states (B, R, d) that predict each token."""
        rows, length, dims = window.shape
        states, targets = window.reshape(-1, dims), batch["tokens"][:, batch["start"] :].reshape(-1)
        reference = batch["reference_hidden"].reshape(-1, dims).astype(window.dtype) if "kl" in want else None
        counted = batch.get("counted")
        if counted is not None:  # the (tokens, V) logits are most of a small model's work
            places = mx.minimum(counted, rows * length - 1)
            states, targets = states[places], targets[places]
            reference = None if reference is None else reference[places]
        statistics = token_statistics(
            states,
            self.trunk.head(),
            targets,
            temperature,
            entropy="entropy" in want,
            reference=None if reference is None else (reference, cast(Head, reference_head)),
        )
        if counted is not None:
            zeros = mx.zeros(rows * length + 1)
            statistics = {name: zeros.at[counted].add(value)[:-1] for name, value in statistics.items()}
        return {name: value.reshape(rows, length) for name, value in statistics.items()}


def running_mean(window: mx.array) -> mx.array:
    """Mean state of the answer as far as each prediction sees it, (B, T, d); before its first token, the prompt's last.

    At the end that is what the reward model scores, and it tells a value head much more than the last state alone.
    """
    answer = mx.cumsum(window[:, 1:], axis=1)
    return mx.concatenate([window[:, :1], answer / mx.arange(1, answer.shape[1] + 1)[:, None]], axis=1)
