"""One step of a Llama on weights borrowed from Transformers: ids and a cache in, hidden states out; samples nothing.

Fused projections, a preallocated cache, and on CPUs weights packed once for oneDNN by the private operators that
torch's own compiler uses: found out by trying, with plain layers as the fallback.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from .checkpoints import cpu_has_bf16


class Linear:
    """x @ weight.T, the weight packed once for oneDNN where this torch and processor can (private operators)."""

    def __init__(self, weight: torch.Tensor):
        self.weight, self.packed, self.by_two = weight.contiguous(), can_pack(weight.device.type, weight.dtype), False
        if not self.packed:
            return
        self.weight = pack(self.weight)
        probe = torch.arange(2 * weight.shape[1]).sin().view(2, -1).to(weight.dtype)
        # a lone row may be summed in another order than several: it is then computed twice, at next to no cost
        self.by_two = not torch.equal(self(probe[:1]), self(probe)[:1])

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x (rows, in) -> (rows, out)"""
        if not self.packed:
            return F.linear(x, self.weight)
        if self.by_two and len(x) == 1:
            return apply_packed(x.repeat(2, 1), self.weight)[:1]
        return apply_packed(x, self.weight)


def pack(weight: torch.Tensor) -> torch.Tensor:
    # packed for 16 rows: as quick for one, and in fp32 half the time of a packing for one when there are 16
    return torch.ops.mkldnn._reorder_linear_weight(weight, 16)


def apply_packed(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")


@functools.cache
def can_pack(device: str, dtype: torch.dtype) -> bool:
    """Whether the private operators are there, are quick for this dtype, and compute what they should."""
    if device != "cpu" or not (dtype == torch.float32 or dtype == torch.bfloat16 and cpu_has_bf16()):
        return False
    weight = torch.arange(64 * 64).sin().view(64, 64).to(dtype)
    try:
        product = apply_packed(weight[:3], pack(weight))
    except (RuntimeError, AttributeError):
        return False  # built without oneDNN: plain layers
    return torch.allclose(product, F.linear(weight[:3], weight), rtol=0.05, atol=0.05)


class Linear8:
    """x @ weight.T in 8 bits: a scale for every row of the weight, and one for every row of x as it comes.

    Nothing is calibrated. nano's distribution over the next code moves by 0.005 nats (KL, mean of 323 steps; bfloat16
    moves it by 0.0005) of an entropy of 3.3; large checkpoints were not measured.
    """

    packed = True

    def __init__(self, weight: torch.Tensor):
        weight = weight.float()
        self.scale = weight.abs().amax(1).clamp_min(1e-12) / 127
        self.zero = torch.zeros(len(weight), dtype=torch.int64)
        weight = (weight / self.scale[:, None]).round_().to(torch.int8)
        self.weight = torch.ops.onednn.qlinear_prepack(weight, None)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        scale = x.abs().amax(-1, keepdim=True).float().clamp_min_(1e-12) / 127  # (rows, 1)
        x8 = (x / scale).round_().add_(128).to(torch.uint8)
        settings = (None, 1.0, 0, torch.float32, "none", [], "")
        product = torch.ops.onednn.qlinear_pointwise(x8, 1.0, 128, self.weight, self.scale, self.zero, *settings)
        return (product * scale).to(x.dtype)


@functools.cache
def can_int8(device: str) -> bool:
    """Whether the private operators are there, and add up large products without overflow (older processors do not)."""
    if device != "cpu":
        return False
    extreme = torch.full((64, 256), 127.0)
    try:
        return torch.allclose(Linear8(extreme)(extreme[:3]), extreme[:3] @ extreme.T, rtol=1e-3)
    except (RuntimeError, AttributeError):
        return False


def attend_part(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of q (rows, heads, t, dim) over some of its keys, and the logarithm of their part of the softmax:
    (rows, heads, t, dim) and (rows, heads, t), by a private operator (CPU only)."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, keys, values)


def join_parts(first, second) -> torch.Tensor:
    """Two of `attend_part` -> attention over the keys of both: (rows, heads, t, dim)"""
    (a, log_a), (b, log_b) = first, second
    return torch.lerp(b, a, (log_a - log_b).sigmoid()[..., None].to(a.dtype))


@functools.cache
def can_share(device: str, dtype: torch.dtype) -> bool:
    """Whether the private operator of `attend_part` is there and tells what it should."""
    if device != "cpu":
        return False
    q, keys, values = torch.arange(3 * 2 * 2 * 5 * 8).sin().view(3, 2, 2, 5, 8).to(dtype).unbind()
    try:
        first, second = (attend_part(q, keys[:, :, k], values[:, :, k]) for k in (slice(2), slice(2, 5)))
        both = join_parts(first, second)
    except (RuntimeError, AttributeError):
        return False
    return torch.allclose(both, F.scaled_dot_product_attention(q, keys, values), rtol=0.05, atol=0.05)


def fuse(linear: type, *layers: torch.nn.Linear) -> Linear | Linear8:
    """Several layers on one input as one product. The layers become views of it, so that nothing is held twice."""
    fused = linear(torch.cat([layer.weight for layer in layers]))
    if not fused.packed:
        for layer, part in zip(layers, fused.weight.split([layer.out_features for layer in layers])):
            layer.weight.data = part
    return fused


class Decoder:
    """The layers of a Llama on weights borrowed from Transformers: fused qkv and gate/up, a preallocated cache."""

    def __init__(self, model, max_ids: int, linear: type = Linear):
        config = model.config
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.dim, self.eps = config.head_dim, config.rms_norm_eps
        self.embedding = model.model.embed_tokens.weight
        self.norm = model.model.norm.weight
        if config.attention_bias or config.mlp_bias:
            raise ValueError("Llamas with biases are not supported by this engine.")
        self.layers = []
        for layer in model.model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            self.layers.append(
                (
                    layer.input_layernorm.weight,
                    fuse(linear, attention.q_proj, attention.k_proj, attention.v_proj),
                    linear(attention.o_proj.weight),
                    layer.post_attention_layernorm.weight,
                    fuse(linear, mlp.gate_proj, mlp.up_proj),
                    linear(mlp.down_proj.weight),
                )
            )
        rotary = model.model.rotary_emb  # its frequencies already hold the scaling of Llama 3
        angles = torch.arange(max_ids, device=rotary.inv_freq.device)[:, None]
        angles = angles * rotary.inv_freq.float()  # (positions, dim / 2)
        cos, sin = angles.cos() * rotary.attention_scaling, angles.sin() * rotary.attention_scaling
        self.cos = torch.cat([cos, cos], -1).to(self.embedding.dtype)
        self.sin = torch.cat([-sin, sin], -1).to(self.embedding.dtype)

    def new_cache(self, rows: int, length: int) -> torch.Tensor:
        """Keys and values: (layers, 2, rows, kv heads, length, dim)"""
        shape = (len(self.layers), 2, rows, self.kv_heads, length, self.dim)
        return torch.empty(shape, dtype=self.embedding.dtype, device=self.embedding.device)

    def shares(self, rows: int) -> bool:
        """Whether so many rows on one prompt are quicker with one cache of it between them (`prompts` of `decode`)."""
        return rows >= 4 and can_share(self.embedding.device.type, self.embedding.dtype)

    def take(self, cache: torch.Tensor, rows: list[int], used: int, into: torch.Tensor | None = None) -> torch.Tensor:
        """A cache of these rows, of which the first `used` ids are copied: a new one, or `into` another."""
        taken = self.new_cache(len(rows), cache.shape[4]) if into is None else into
        for place, row in enumerate(rows):
            taken[:, :, place, :, :used] = cache[:, :, row, :, :used]
        return taken

    def prefill(self, ids: torch.Tensor, cache: torch.Tensor, row: int) -> torch.Tensor:
        """Read a prompt (p,) into one row of the cache; returns the last hidden state (1, hidden)."""
        length = len(ids)

        def attend(layer, q, k, v):
            q, k, v = (z.transpose(0, 1)[None] for z in (q, k, v))  # (1, heads, p, dim)
            layer[0][row, :, :length], layer[1][row, :, :length] = k[0], v[0]
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)[0].transpose(0, 1)

        return self._layers(ids, slice(0, length), cache, attend)[-1:]

    def read(self, ids: torch.Tensor, cache: torch.Tensor, rows: range) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Read a prompt (p,) once for some rows of the cache.

        Returns:
            The last hidden state (1, hidden), and `prompts` of `decode`: for each row the cache that they share; empty
            where they do not (`shares`), and the prompt stands at the beginning of each.
        """
        if self.shares(len(rows)):
            prompt = self.new_cache(1, len(ids))
            return self.prefill(ids, prompt, 0), [prompt] * len(rows)
        hidden = self.prefill(ids, cache, rows.start)
        cache[:, :, rows.start + 1 : rows.stop, :, : len(ids)] = cache[:, :, rows.start, None, :, : len(ids)]
        return hidden, []

    def decode(
        self, ids: torch.Tensor, cache: torch.Tensor, lengths: list[int], prompts: Sequence[torch.Tensor] = ()
    ) -> torch.Tensor:
        """One id for each row (rows,), each at the end of its own length -> hidden states (rows, hidden).

        Args:
            prompts: for each row the cache, of one row, that it goes on from, where its own holds only what came after
                (`shares`): many rows on one prompt are bound by reading its keys.
        """
        spans = runs(lengths)  # rows of one length are attended together; a mask over several would change the rounding
        shared = list({id(prompt): prompt for prompt in prompts}.values())
        groups = runs([next(k for k, one in enumerate(shared) if one is prompt) for prompt in prompts])

        def attend(layer, q, k, v):
            # the query heads of a group are folded into the query length: keys are not repeated
            q = q.view(len(q), self.kv_heads, -1, self.dim)
            (keys, values), *read = layer
            own = []
            for rows, length in spans:
                keys[rows, :, length], values[rows, :, length] = k[rows], v[rows]
                seen = q[rows], keys[rows, :, : length + 1], values[rows, :, : length + 1]
                own.append(attend_part(*seen) if groups else [F.scaled_dot_product_attention(*seen)])
            own = own[0] if len(own) == 1 else [torch.cat(parts) for parts in zip(*own)]
            if not groups:
                return own[0]
            # keys of a prompt repeated with a stride of 0: read from memory once, and each row's arithmetic its own
            of_prompt = [attend_part(q[rows], *read[k].expand(2, len(q[rows]), -1, -1, -1)) for rows, k in groups]
            return join_parts([torch.cat(parts) for parts in zip(*of_prompt)], own)

        where = [length + prompt.shape[4] for length, prompt in zip(lengths, prompts)] or lengths
        same = where.count(where[0]) == len(where)
        positions = slice(where[0], where[0] + 1) if same else torch.tensor(where, device=ids.device)
        return self._layers(ids, positions, zip(cache, *shared), attend)

    @property
    def id_bytes(self) -> int:
        """What a cache takes for each id of a row."""
        return 2 * len(self.layers) * self.kv_heads * self.dim * self.embedding.itemsize

    def new_static_cache(self, rows: int, length: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Keys and values of each layer, (rows, kv heads, length, dim) each: one tensor for all would be copied whole
        by compiled code. Zeros: what is masked is still multiplied, and garbage may be NaN."""
        shape, like = (rows, self.kv_heads, length, self.dim), dict(dtype=self.embedding.dtype, device=self.cos.device)
        return [(torch.zeros(shape, **like), torch.zeros(shape, **like)) for _ in self.layers]

    def decode_static(self, ids: torch.Tensor, positions: torch.Tensor, cache, window: int) -> torch.Tensor:
        """`decode` with its lengths on the device: nothing is read back, and no shape depends on them.

        Args:
            ids, positions: (rows,); each id goes where its row ends.
            cache: of `new_static_cache`.
            window: how much of it is attended to; a row that is longer comes out wrong, and no worse.
        """
        rows = torch.arange(len(ids), device=ids.device)
        unseen = (torch.arange(window, device=ids.device) > positions[:, None])[:, None, None]  # (rows, 1, 1, window)
        # to be added: of booleans, attention would make this anew in every layer
        mask = torch.zeros_like(unseen, dtype=self.embedding.dtype).masked_fill(unseen, -torch.inf)

        def attend(layer, q, k, v):
            keys, values = layer
            keys[rows, :, positions], values[rows, :, positions] = k, v
            q = q.view(len(q), self.kv_heads, -1, self.dim)
            return F.scaled_dot_product_attention(q, keys[:, :, :window], values[:, :, :window], attn_mask=mask)

        return self._layers(ids, positions, cache, attend)

    def _layers(self, ids, positions, cache, attend) -> torch.Tensor:
        """ids (t,), in one row or in one row each -> hidden states (t, hidden)"""
        x = F.embedding(ids, self.embedding)
        cos, sin = self.cos[positions][:, None], self.sin[positions][:, None]
        turned = self.heads + self.kv_heads
        for layer, (norm_1, qkv, out, norm_2, gate_up, down) in zip(cache, self.layers):
            heads = qkv(F.rms_norm(x, x.shape[-1:], norm_1, self.eps)).view(len(ids), -1, self.dim)
            qk = rotate(heads[:, :turned], cos, sin)
            mixed = attend(layer, qk[:, : self.heads], qk[:, self.heads :], heads[:, turned:])
            x = x + out(mixed.reshape(len(ids), -1))
            gate, up = gate_up(F.rms_norm(x, x.shape[-1:], norm_2, self.eps)).chunk(2, -1)
            x = x + down(F.silu(gate) * up)
        return F.rms_norm(x, x.shape[-1:], self.norm, self.eps)


def runs(values: Sequence[int]) -> list[tuple[slice, int]]:
    """Where equal values stand side by side, and which: [7, 7, 5] -> [(0:2, 7), (2:3, 5)]"""
    ends = [k for k in range(1, len(values)) if values[k] != values[k - 1]]
    return [(slice(a, b), values[a]) for a, b in itertools.pairwise([0, *ends, len(values)]) if a < b]


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding: x (t, heads, dim); cos and sin (t, 1, dim), the first half of sin negative."""
    first, second = x.chunk(2, -1)
    return torch.addcmul(x * cos, torch.cat([second, first], -1), sin)
