"""The Llama decoder in PyTorch, in plain operations, and what is computed from its states.

Parameter names are Hugging Face's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mlxrlhf.algorithms.rollout import bucket
from mlxrlhf.backends.sampling import Prompts
from mlxrlhf.config import ModelConfig

#: float32 logits held at once, in elements: 32M is 128 MB
LOGITS_CHUNK = 2**25


class KVCache:
    """Keys and values of one layer, (B, kv heads, positions, head dim), grown 64 positions at a time."""

    def __init__(self) -> None:
        self.keys, self.values = torch.zeros(0, 0, 0, 0), torch.zeros(0, 0, 0, 0)
        self.length = 0

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Returns all keys and values so far."""
        end = self.length + keys.shape[2]
        if end > self.keys.shape[2]:
            self.keys, self.values = self._grown(self.keys, keys), self._grown(self.values, values)
        self.keys[:, :, self.length : end] = keys
        self.values[:, :, self.length : end] = values
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def _grown(self, tensor: Tensor, new: Tensor) -> Tensor:
        rows, heads, positions, dims = new.shape
        room = new.new_zeros(rows, heads, bucket(positions, 64), dims)
        return torch.cat([tensor[:, :, : self.length], room], dim=2) if self.length else room

    def keep(self, rows: Tensor) -> None:
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

    def forward(self, x: Tensor, mask: Tensor | str, rotation: tuple[Tensor, Tensor], cache: KVCache | None) -> Tensor:
        c, (rows, length, _) = self.c, x.shape
        q = rotate(self.q_proj(x).view(rows, length, c.num_heads, c.head_dim), *rotation).transpose(1, 2)
        k = rotate(self.k_proj(x).view(rows, length, c.num_kv_heads, c.head_dim), *rotation).transpose(1, 2)
        v = self.v_proj(x).view(rows, length, c.num_kv_heads, c.head_dim).transpose(1, 2)
        if cache is not None:
            k, v = cache.append(k, v)
        # is_causal lines queries up with the first keys, so it serves only where there are as many of both; the one
        # query of a decoding step sees every key.
        allowed = None if isinstance(mask, str) else mask
        shared = c.num_heads != c.num_kv_heads
        if shared and length == 1:
            # The queries that share a key head become the rows of one product: up to six times faster than enable_gqa.
            q, shared = q.reshape(rows, c.num_kv_heads, -1, c.head_dim), False
        y = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=allowed,
            is_causal=allowed is None and length > 1,
            scale=c.head_dim**-0.5,
            enable_gqa=shared,
        )
        y = y.reshape(rows, c.num_heads, length, c.head_dim)
        return self.o_proj(y.transpose(1, 2).reshape(rows, length, -1))


def rope_frequencies(c: ModelConfig) -> Tensor:
    """Positions per radian for each pair of dimensions, (head_dim / 2,) float32, scaled as config.json asks.

    Raises ValueError for a scaling other than linear and llama3 (Llama 3.1's config).
    """
    freqs = c.rope_theta ** (torch.arange(0, c.head_dim, 2) / c.head_dim)
    s = c.rope_scaling
    if not s:
        return freqs
    kind = s.get("rope_type", s.get("type"))
    if kind == "linear":
        return freqs * s["factor"]
    if kind != "llama3":
        raise ValueError(f"rope scaling {kind!r} is not supported")
    low, high, context = s["low_freq_factor"], s["high_freq_factor"], s["original_max_position_embeddings"]
    wavelengths = 2 * math.pi * freqs
    smooth = (context / wavelengths - low) / (high - low)
    middle = freqs / ((1 - smooth) / s["factor"] + smooth)
    scaled = torch.where(wavelengths > context / low, freqs * s["factor"], middle)
    return torch.where(wavelengths < context / high, freqs, scaled)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE (Su et al. 2021) on pairs (i, i + head_dim / 2), in float32, returned in x's precision.

    x (B, T, heads, head_dim), cos and sin (T, 1, head_dim / 2).
    """
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat([torch.addcmul(a * cos, b, sin, value=-1), torch.addcmul(b * cos, a, sin)], dim=-1).to(x.dtype)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up (Shazeer 2020)."""
    return (SwiGLU.apply if torch.is_grad_enabled() else SwiGLU.value)(gate, up)


class SwiGLU(torch.autograd.Function):
    """`swiglu`, of which gate and up alone are kept for the backward pass: these are a block's widest arrays, and
    silu(gate) would be another."""

    @staticmethod
    def value(gate: Tensor, up: Tensor) -> Tensor:
        return F.silu(gate).mul_(up)

    @staticmethod
    def forward(ctx, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return SwiGLU.value(gate, up)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(gradient * up, gate), F.silu(gate).mul_(gradient)


class MLP(nn.Module):
    def __init__(self, c: ModelConfig):
        super().__init__()
        self.gate_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=c.mlp_bias)
        self.up_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=c.mlp_bias)
        self.down_proj = nn.Linear(c.intermediate_size, c.hidden_size, bias=c.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich 2019); only the last product is in x's precision."""

    def __init__(self, dims: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dims))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == self.weight.dtype == torch.float32:
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        return F.rms_norm(x.float(), self.weight.shape, eps=self.eps).to(x.dtype) * self.weight


class Block(nn.Module):
    def __init__(self, c: ModelConfig):
        super().__init__()
        self.self_attn = Attention(c)
        self.mlp = MLP(c)
        self.input_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)

    def forward(
        self, x: Tensor, mask: Tensor | str, rotation: tuple[Tensor, Tensor], cache: KVCache | None = None
    ) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), mask, rotation, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    def __init__(self, c: ModelConfig):
        super().__init__()
        # A weight of its own spares torch's draw, which on the meta device loads torch's compiler: a second.
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size, _weight=torch.empty(c.vocab_size, c.hidden_size))
        self.layers = nn.ModuleList(Block(c) for _ in range(c.num_layers))
        self.norm = RMSNorm(c.hidden_size, c.rms_norm_eps)


class Llama(nn.Module):
    """Token ids to hidden states, and hidden states to log-probabilities."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.gradient_checkpointing = False
        self._table: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Normal(0, 0.02), residual outputs scaled by 1/sqrt(2 layers) (Radford et al. 2019); norms at 1."""
        generator = torch.Generator().manual_seed(seed)
        scaled = 0.02 / math.sqrt(2 * self.config.num_layers)
        for path, module in self.named_modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                std = scaled if path.endswith(("o_proj", "down_proj")) else 0.02
                # Drawn in float32 one tensor at a time, whatever precision the model has.
                module.weight.copy_(torch.empty(module.weight.shape).normal_(std=std, generator=generator))
                if (bias := getattr(module, "bias", None)) is not None:
                    bias.zero_()
            elif isinstance(module, RMSNorm):
                module.weight.fill_(1.0)

    @property
    def layers(self) -> list[Block]:
        """The blocks that adapters go into."""
        return cast(list[Block], list(self.model.layers))

    def head_weight(self) -> Tensor:
        """(V, d)"""
        return self.model.embed_tokens.weight if self.config.tie_word_embeddings else self.lm_head.weight

    def rotation(self, offset: int, length: int) -> tuple[Tensor, Tensor]:
        """cos and sin of positions offset to offset + length, each (length, 1, head_dim / 2) float32."""
        end, device = offset + length, self.head_weight().device
        if self._table is None or len(self._table[0]) < end or self._table[0].device != device:
            # A tensor made in inference mode could not take part in a later gradient.
            with torch.inference_mode(False):
                angles = torch.arange(bucket(end, 256))[:, None, None] / rope_frequencies(self.config)
                self._table = angles.cos().to(device), angles.sin().to(device)
        cos, sin = self._table
        return cos[offset:end], sin[offset:end]

    def forward(
        self,
        tokens: Tensor,
        segments: Tensor | None = None,
        *,
        mask: Tensor | str | None = None,
        offset: int = 0,
        caches: list[KVCache] | None = None,
    ) -> Tensor:
        """Hidden states (B, T, d) of tokens (B, T).

        segments (B, T) number the documents of a packed row (0: padding): attention never crosses them. RoPE depends
        on distances only, so positions need not restart at a segment or after left padding.
        mask: "causal", or boolean and broadcastable to (B, 1, T, keys), True where a query sees a key.
        """
        if mask is None:
            mask = "causal" if segments is None else segment_mask(segments)
        rotation = self.rotation(offset, tokens.shape[1])
        x = self.model.embed_tokens(tokens)
        for i, block in enumerate(self.layers):
            if self.gradient_checkpointing and self.training:
                x = checkpoint(block, x, mask, rotation, use_reentrant=False)
            else:
                x = block(x, mask, rotation, caches[i] if caches else None)
        return self.model.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., d) to (..., V), in the trunk's precision."""
        return hidden @ self.head_weight().T

    def reading(self, prompts: Prompts) -> LlamaReading:
        """A batch to be sampled."""
        return LlamaReading(self, prompts)


class LlamaReading:
    """A batch that is being sampled, as the decoder reads it: the keys and values of what was read.

    Prompts stand to the right of their padding, positions are columns.
    """

    def __init__(self, trunk: Llama, prompts: Prompts):
        self._trunk, self._prompts = trunk, prompts
        self._device = trunk.head_weight().device
        self._caches = [KVCache() for _ in trunk.layers]
        self._real = torch.from_numpy(prompts.real).to(self._device)
        self._end = prompts.width

    def prompts(self) -> Tensor:
        """Read the distinct prompts. Returns the state (D, d) of the last token of each."""
        p = self._prompts
        mask = segment_mask(self._real[:, : p.width]) if p.padded else "causal"
        tokens = torch.from_numpy(p.tokens).long().to(self._device)
        return self._trunk(tokens, mask=mask, caches=self._caches)[:, -1]

    def token(self, tokens: Tensor) -> Tensor:
        """Read one more token of each row (B,). Returns their states (B, d)."""
        mask = self._real[:, None, None, : self._end + 1] if self._prompts.padded else "causal"
        hidden = self._trunk(tokens[:, None], mask=mask, offset=self._end, caches=self._caches)[:, -1]
        self._end += 1
        return hidden

    def keep(self, rows: Tensor) -> None:
        """The batch becomes these rows: a shared prompt is repeated, finished responses leave."""
        self._real = self._real[rows]
        for cache in self._caches:
            cache.keep(rows)


def segment_mask(segments: Tensor) -> Tensor:
    """Boolean (B, 1, T, T): causal, within one segment. Padding attends to padding, so that no row is empty."""
    positions = torch.arange(segments.shape[1], device=segments.device)
    causal = positions[:, None] >= positions[None, :]
    return (causal & (segments[:, :, None] == segments[:, None, :]))[:, None]


def token_statistics(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    temperature: float,
    *,
    entropy: bool = False,
    reference: tuple[Tensor, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Log-probability of each target and, where asked, entropy and KL from a reference, in chunks of tokens.

    hidden (N, d), weight (V, d), targets (N,); reference = (hidden (N, d), weight (V, d)). Each output is (N,)
    float32. More than one chunk is recomputed in the backward pass, so that (N, V) logits never exist at once.
    """

    def log_softmax(h: Tensor, w: Tensor) -> Tensor:
        logits = (h @ w.T).float()
        return F.log_softmax(logits if temperature == 1 else logits / temperature, dim=-1)

    def chunk(h: Tensor, w: Tensor, t: Tensor, *ref: Tensor) -> tuple[Tensor, ...]:
        logprobs = log_softmax(h, w)
        outputs = [logprobs.gather(-1, t[:, None])[:, 0]]
        if entropy or ref:
            probs = logprobs.exp()
        if entropy:
            outputs.append(-(probs * logprobs).sum(dim=-1))
        if ref:
            outputs.append((probs * (logprobs - log_softmax(*ref))).sum(dim=-1))
        return tuple(outputs)

    def run(*arguments: Tensor) -> tuple[Tensor, ...]:
        return chunk(*arguments) if whole else checkpoint(chunk, *arguments, use_reentrant=False)

    size = max(1, LOGITS_CHUNK // weight.shape[0])
    whole = hidden.shape[0] <= size
    parts = []
    for i in range(0, max(1, hidden.shape[0]), size):  # at least one chunk, though no token may be counted
        ref = (reference[0][i : i + size], reference[1]) if reference is not None else ()
        parts.append(run(hidden[i : i + size], weight, targets[i : i + size], *ref))
    columns = [torch.cat(column) for column in zip(*parts)]
    names = ["logp", *(["entropy"] if entropy else []), *(["kl"] if reference is not None else [])]
    return dict(zip(names, columns))


class ValueHead(nn.Module):
    """Linear(d, d/2) - ReLU - Linear(d/2, 1); the last layer starts at std `last_std`."""

    def __init__(self, dims: int, last_std: float = 0.0):
        super().__init__()
        self.hidden = nn.Linear(dims, dims // 2)
        self.out = nn.Linear(dims // 2, 1)
        nn.init.normal_(self.out.weight, std=last_std)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) to (...), float32."""
        return self.out(torch.relu(self.hidden(x.float()))).squeeze(-1)


class Network(nn.Module):
    """A trunk and, for PPO, a value head."""

    def __init__(self, config: ModelConfig, value_head: bool):
        super().__init__()
        with torch.device("meta"):  # the weights come from a seed or a folder: torch's own draws would be wasted
            self.trunk = Llama(config)
        if value_head:
            self.value_head = ValueHead(config.hidden_size)

    def forward(
        self, batch: dict[str, Any], want: Sequence[str], temperature: float, reference_weight: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The outputs that `protocol.Model.evaluate` describes, of a batch that train.tensors_of made."""
        start = batch["start"]
        hidden = self.trunk(batch["tokens"], batch.get("segments"))
        window = hidden[:, start - 1 : -1]  # the state that predicts column `start` is one to its left
        out: dict[str, Tensor] = {}
        if {"logp", "entropy", "kl"} & set(want):
            out |= self._token_outputs(window, batch, want, temperature, reference_weight)
        if {"features", "score"} & set(want):
            answer = batch["mask"][..., None]  # (B, R, 1)
            pooled = (hidden[:, start:].float() * answer).sum(dim=1) / answer.sum(dim=1)
            out |= {"features": pooled} if "features" in want else {}
            out |= {"score": self.value_head(pooled)} if "score" in want else {}
        if "value" in want:
            # Detached: a value head that starts ignorant must not pull at the policy's features.
            out["value"] = self.value_head(running_mean(window.detach().float()))
        if "hidden" in want:
            out["hidden"] = window.float()
        return out

    def _token_outputs(
        self,
        window: Tensor,
        batch: dict[str, Any],
        want: Sequence[str],
        temperature: float,
        reference_weight: Tensor | None,
    ) -> dict[str, Tensor]:
        """logp and, where wanted, entropy and kl (B, R), from the states (B, R, d) that predict each token."""
        rows, length, dims = window.shape
        states, targets = window.reshape(-1, dims), batch["tokens"][:, batch["start"] :].reshape(-1)
        reference = batch["reference_hidden"].reshape(-1, dims).to(window.dtype) if "kl" in want else None
        counted = batch.get("counted")
        if counted is not None:  # the (tokens, V) logits are most of a small model's work
            states, targets = states[counted], targets[counted]
            reference = None if reference is None else reference[counted]
        statistics = token_statistics(
            states,
            self.trunk.head_weight(),
            targets,
            temperature,
            entropy="entropy" in want,
            reference=None if reference is None else (reference, cast(Tensor, reference_weight)),
        )
        if counted is not None:
            statistics = {
                name: value.new_zeros(rows * length).index_add(0, counted, value) for name, value in statistics.items()
            }
        return {name: value.view(rows, length) for name, value in statistics.items()}


def running_mean(window: Tensor) -> Tensor:
    """Mean state of the answer as far as each prediction sees it, (B, T, d); before its first token, the prompt's last.

    At the end that is what the reward model scores, and it tells a value head much more than the last state alone.
    """
    answer = window[:, 1:].cumsum(dim=1)
    counts = torch.arange(1, answer.shape[1] + 1, device=window.device)[:, None]
    return torch.cat([window[:, :1], answer / counts], dim=1)
