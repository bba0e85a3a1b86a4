"""Language model, codec and verifiers together, in the shapes of the released ones: what waits for what.

Weights are random, so that no checkpoint is needed; a random model hardly ever ends, and each sample takes its 10 s.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .audio import FRAME_RATE, SAMPLE_RATE
from .benchmark_paths import build, forget, ignores_failures, note
from .checkpoints import SHAPES as RELEASED
from .checkpoints import load_codec, pick_dtype
from .measure import Row, least, sync
from .search import ChunkSearch, SearchSettings, Task
from .verifiers import Own, Target, verifier

VOICE_CODES = 200  # 4 s of voice prompt ...
TEXT_IDS = 100  # ... and what a text and the template take
SAMPLE_IDS = 500  # 10 s
BEAMS = 16  # as the paper: 16 beams of 16 branches
SEED = 1


def whole(bench) -> Iterator[Row]:
    """One sample, the first sound, best of 16, partial PRM at 16 x 16, and codec and verifiers by themselves."""
    for model in bench.models:
        try:
            yield from Whole(model, bench.device, bench.rounds, bench.steps or SAMPLE_IDS).rows()
        except Exception as error:  # as of the paths: what was measured before is kept
            if not ignores_failures(bench.device):
                raise
            yield Row("whole", model, "what comes next", 1, None, note=note(error))
        forget()


class Whole:
    """One model with its codec and verifiers. `ids` is the length of a sample."""

    def __init__(self, model: str, device: str, rounds: int, ids: int):
        from .engine import Engine

        self.model, self.device, self.rounds, self.ids = model, device, rounds, ids
        lm, self.answer = build(model, pick_dtype(device, None, model not in RELEASED), device)
        self.engine = Engine(lm, {"speech": self.answer})
        self.codec, self.listeners = (released if model in RELEASED else small)(device)
        self.voice = np.random.default_rng(SEED).integers(self.codec.codebook_size, size=VOICE_CODES)
        self.prompt = list(range(TEXT_IDS)) + [self.answer[1 + int(code)] for code in self.voice]

    def start(self, n: int):
        from .engine import Sampling

        return self.engine.start(self.prompt, n, "speech", Sampling(), SEED, self.ids)

    def to_codes(self, ids) -> np.ndarray:
        return (np.asarray(ids, np.int64) - self.answer[1]) % self.codec.codebook_size

    def rows(self) -> Iterator[Row]:
        one, made = least(self.rounds, self.sample, 1)
        yield self.row("one sample", 1, one, made, one)
        best, made = least(self.rounds, self.sample, BEAMS)
        yield self.row(f"best of {BEAMS}, language model alone", BEAMS, best, made, one)
        yield self.row("first sound of a stream", 1, least(self.rounds, self.first_sound)[0], None, one)
        spent = min((self.partial_prm() for _ in range(self.rounds + 1)), key=lambda spent: sum(spent.values()))
        name = f"partial PRM {BEAMS} x {BEAMS}"
        yield self.row(name, BEAMS**2, sum(spent.values()), None, one)
        for what, by in (("sampling", "language model"), ("decoding", "codec"), ("verifying", "speaker verifier")):
            yield self.row(f"{name}: {by}", BEAMS**2, spent[what], None, one)
        codes = [self.to_codes(np.arange(self.ids) * (k + 7)) for k in range(BEAMS)]
        for n in (1, BEAMS):
            took, waves = least(self.rounds, self.codec.decode_batch, codes[:n])
            yield self.row("codec, decode", n, took, None, one)
            for listener in self.listeners:
                took, _ = least(self.rounds, listener.hear, waves)
                yield self.row(listener.name, n, took, None, one)

    def row(self, path: str, n: int, seconds: float, made: int | None, one: float) -> Row:
        speed = made and made / seconds
        return Row(
            "whole", self.model, path, n, seconds, speed, speed and speed / FRAME_RATE, to_sample=seconds / one
        )  # fmt: skip

    def sample(self, n: int) -> int:
        beams = self.start(n)
        beams.advance(self.ids)
        sync(self.device)
        return sum(map(len, beams.ids))

    def first_sound(self):
        def come(beams):
            while not beams.done:
                yield from self.to_codes(beams.advance(25)[0]).tolist()

        return next(self.codec.decode_stream(come(self.start(1)), self.voice))

    def partial_prm(self) -> dict[str, float]:
        """Seconds by who took them. The speaker verifier is the outcome verifier too."""

        def decode(batch, whole):
            context = self.voice if whole else self.voice[-SearchSettings.context_codes :]
            return self.codec.decode_after(context, batch)

        task = Task(self.start, self.to_codes, decode, Target("", self.codec.decode(self.voice)))
        settings = SearchSettings("partial_prm", BEAMS, BEAMS, score_batch=BEAMS)
        search = ChunkSearch(task, settings, self.listeners[0], self.listeners[0])
        for _ in search.events():
            pass
        return search.spent


@dataclass
class Listener:
    """A verifier as search uses it: `embed` or transcribe waves, on a random model of some shape."""

    name: str
    model: object
    features: object
    device: str

    def hear(self, waves) -> np.ndarray:
        """(n,) numbers that depend on the waves."""
        import torch

        heard = []
        for k in range(0, len(waves), 16):
            batch = [np.resize(wav, max(len(wav), SAMPLE_RATE // 2)) for wav in waves[k : k + 16]]
            padding = "max_length" if self.model.can_generate() else True  # Whisper hears 30 s, whatever there is
            given = self.features(batch, sampling_rate=SAMPLE_RATE, return_tensors="pt", padding=padding)
            given = given.to(self.device)
            with torch.inference_mode():
                if self.model.can_generate():
                    out = self.model.generate(**given, max_new_tokens=40, min_new_tokens=40)  # words of 10 s
                else:
                    out = self.model(**given).embeddings
            heard.append(out.float().mean(-1).cpu().numpy())
        return np.concatenate(heard)

    def score(self, waves, target, codes) -> list[dict[str, float]]:
        return [{"speaker": float(number)} for number in self.hear(waves)]

    def order(self, scores: dict[str, float]) -> tuple[float, ...]:
        return (scores["speaker"],)


def small(device: str):
    """nano's codec and speaker verifier."""
    speaker = verifier("speaker", Own(device))
    speaker.load()
    listener = Listener("speaker verifier, nano's", speaker.model, speaker.features, device)
    return load_codec("nano", device, pick_dtype(device, "float32")), [listener]


@functools.lru_cache(1)
def released(device: str):
    """X-codec2, WavLM-large with x-vectors and Whisper-large-v3, in float32 as the library runs them."""
    import torch
    import transformers as hf

    from .codec import Codec

    wavlm = hf.WavLMConfig(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096,
        do_stable_layer_norm=True, feat_extract_norm="layer",
    )  # fmt: skip
    whisper = hf.WhisperConfig(
        vocab_size=51_866, num_mel_bins=128, d_model=1280, encoder_layers=32, decoder_layers=32,
        encoder_attention_heads=20, decoder_attention_heads=20, encoder_ffn_dim=5120, decoder_ffn_dim=5120,
    )  # fmt: skip
    with torch.device(device):
        codec = Codec(hf.Xcodec2Model(hf.Xcodec2Config()), "X-codec2's shape")
        models = hf.WavLMForXVector(wavlm).eval(), hf.WhisperForConditionalGeneration(whisper).eval()
    extractors = hf.Wav2Vec2FeatureExtractor(return_attention_mask=False), hf.WhisperFeatureExtractor(feature_size=128)
    names = "speaker verifier, WavLM-large's shape", "recogniser, Whisper-large-v3's shape"
    return codec, [Listener(*given, device) for given in zip(names, models, extractors)]
