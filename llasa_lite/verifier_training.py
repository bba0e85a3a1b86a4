"""Trains a small speaker verifier from clips with speakers; knows nothing of text, tokens or language models.

    python -m llasa_lite train verifier --data CORPUS --out DIR --minutes 20

The result is a `WavLMForXVector`, loaded by the same class as `microsoft/wavlm-base-plus-sv`: the cosine of two
embeddings says how alike two voices are. Additive-margin softmax over the training voices (Wang et al. 2018,
arXiv 1801.05599), on crops of which some have been through the codec, since most of what it will judge has, and some
through a telephone, a room or noise, since a visitor's clip may have.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from .audio import SAMPLE_RATE
from .checkpoints import autocast, reaching, training_device
from .codec import MAX_ENCODE_SECONDS
from .data import Clip, Kept, Repitched, disturbed
from .files import whole
from .finetuning import begin, check_alone
from .training import cosine_rate

log = logging.getLogger(__name__)

PHASES = 4  # in which each filter of the bank comes: rectified, they add up to its band's envelope


@dataclass(frozen=True)
class VerifierTraining:
    """Settings of a run."""

    minutes: float = 20.0  # wall time; the learning rate falls along a cosine over it
    batch: int = 32  # crops a step, each of another voice as far as there are voices
    crop_seconds: tuple[float, float] = (1.2, 2.4)  # range a step's length is drawn from
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    weight_decay: float = 0.01
    margin: float = 0.2  # of the softmax; grows from 0 over the first fifth
    through_codec: float = 0.3  # share of crops taken from the clip's resynthesis
    disturbed: float = 0.3  # share of crops with noise, a room or a narrow band
    clips_per_voice: int = 60  # at most; bounds decoding time
    save_minutes: float = 3.0  # of training between two states: what a stop costs at most
    seed: int = 0


def small_verifier_config():
    """nano's verifier: 1.1M parameters. One long convolution stands for a filter bank (see `new_verifier`).

    Nothing is dropped and nothing masked: a model this small has more voices before it than it can hold.
    """
    from transformers import WavLMConfig

    return WavLMConfig(
        **dict.fromkeys(
            ("hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout", "final_dropout"), 0.0
        ),
        apply_spec_augment=False,
        hidden_size=128,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=384,
        feat_extract_norm="layer",  # so that padding does not change what is heard
        conv_dim=(256, 128),
        conv_kernel=(400, 3),  # 25 ms, then 50 frames a second
        conv_stride=(160, 2),
        num_feat_extract_layers=2,
        conv_bias=True,
        do_stable_layer_norm=True,
        num_conv_pos_embeddings=32,
        num_conv_pos_embedding_groups=8,
        tdnn_dim=(192, 192, 192, 192, 384),
        xvector_output_dim=128,
        layerdrop=0.0,
        num_labels=2,
    )


def new_verifier(speech: torch.Tensor | None = None):
    """A fresh `WavLMForXVector` whose first convolution is a bank of 64 mel-spaced filters in four phases each.

    From random filters a model of this size would spend its few minutes on finding the frequencies.

    Args:
        speech: (batch, samples), normalised; the bands are made as loud as each other in it, and loud enough for the
            rectifier behind them. Speech falls by some 40 dB over them, and a faint band's four phases pass a GELU
            almost straight and cancel: the model would hear little above 2 kHz. None: as the filters are.
    """
    import librosa
    from transformers import WavLMForXVector

    model = WavLMForXVector(small_verifier_config())
    first = model.wavlm.feature_extractor.conv_layers[0]
    channels, _, length = first.conv.weight.shape
    frequencies = librosa.mel_frequencies(channels // PHASES + 2, fmin=60.0, fmax=7600.0)[1:-1]
    seconds = (torch.arange(length) - length / 2) / SAMPLE_RATE
    bank = []
    for index, frequency in enumerate(frequencies):
        gap = frequencies[min(index + 1, len(frequencies) - 1)] - frequencies[max(index - 1, 0)]  # Hz
        width = min(1.0, 2 * SAMPLE_RATE / (gap * length))  # of the window: wider bands have shorter filters
        window = torch.exp(-0.5 * (seconds / (width * length / SAMPLE_RATE / 5)) ** 2)
        for phase in range(PHASES):
            wave = window * torch.cos(2 * math.pi * frequency * seconds + phase * 2 * math.pi / PHASES)
            bank.append(wave / wave.norm())
    with torch.no_grad():
        first.conv.weight.copy_(torch.stack(bank)[:, None])
        first.conv.bias.zero_()
        if speech is not None:
            loudness = first.conv(speech[:, None]).square().mean((0, 2)).view(-1, PHASES).mean(1).sqrt()  # of each band
            first.conv.weight.div_(loudness.repeat_interleave(PHASES)[:, None, None])
            first.layer_norm.weight.fill_(3.0)
    return model


class VoiceCrops:
    """Random crops of clips by voice, plain or through the codec; clips stay in memory after their first use."""

    def __init__(self, clips: list[Clip | Repitched], codec, settings: VerifierTraining):
        self.codec, self.settings, self.random = codec, settings, np.random.default_rng(settings.seed)
        by_voice: dict[str, list[Clip | Repitched]] = {}
        for clip in clips:
            by_voice.setdefault(clip.speaker, []).append(clip)
        self.clips = [
            [known[i] for i in self.random.permutation(len(known))[: settings.clips_per_voice]]
            for _, known in sorted(by_voice.items())
        ]
        self.cache = Kept()

    def wav(self, clip: Clip | Repitched, through_codec: bool) -> np.ndarray:
        def resynthesis() -> np.ndarray:
            most = int(MAX_ENCODE_SECONDS * SAMPLE_RATE)  # at once; of a longer clip it is crops of the beginning
            return self.codec.decode(self.codec.encode(self.wav(clip, False)[:most])).clip(-1, 1)

        return self.cache.wav((clip, through_codec), resynthesis if through_codec else clip.load)

    def any_wav(self, clips: list[Clip | Repitched], through_codec: bool) -> np.ndarray:
        """Of one of a voice's clips. Those that cannot be read are left out from then on; raises ValueError where none
        is left."""
        while True:
            clip = clips[self.random.integers(len(clips))]
            try:
                return self.wav(clip, through_codec)
            except ValueError as error:
                log.warning("Clip %s is left out: %s", clip.id, error)
                clips.remove(clip)
                if not clips:
                    raise

    def batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch, samples) float32, each normalised as the feature extractor does, and (batch,) voices."""
        samples = int(self.random.uniform(*self.settings.crop_seconds) * 5) * SAMPLE_RATE // 5
        replace = len(self.clips) < self.settings.batch
        voices = self.random.choice(len(self.clips), self.settings.batch, replace=replace)
        rows = []
        for voice in voices:
            through = self.codec is not None and self.random.random() < self.settings.through_codec
            wav = self.any_wav(self.clips[voice], through)
            wav = np.tile(wav, -(-samples // len(wav)))  # a short clip is heard again
            start = self.random.integers(len(wav) - samples + 1)
            wav = wav[start : start + samples]
            if self.random.random() < self.settings.disturbed:
                wav = disturbed(wav, self.random)
            rows.append(normalized(wav))
        return torch.from_numpy(np.stack(rows).astype(np.float32)), torch.from_numpy(voices)


def train_verifier(
    clips: list[Clip | Repitched],
    out: str | Path,
    settings: VerifierTraining,
    codec=None,
    watched=(),
    init: str | Path | None = None,
) -> Path:
    """Train and save `out/` as a `WavLMForXVector` in fp16 with its feature extractor; log to `out/log.jsonl`.

    A run that was stopped goes on from `out/state.safetensors` with a fresh optimizer; one that was at its end takes no
    more steps, and may be lengthened.

    Args:
        clips: training clips of at least two voices.
        codec: a `Codec` some clips go through; None: none do.
        watched: clips of voices that are not trained on; their equal error rate is logged with every checkpoint, if
            there are two voices and two clips of one.
        init: folder of a trained verifier of this shape to start from; None starts from scratch.
    Raises:
        ValueError: fewer than two voices, more than one process, or an `out` that is `init` or was begun with other
            settings or clips.
    """
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file
    from transformers import WavLMForXVector

    check_alone("A verifier is")
    out = Path(out)
    torch.manual_seed(settings.seed)
    crops = VoiceCrops(clips, codec, settings)
    if len(crops.clips) < 2:
        raise ValueError("A speaker verifier needs clips of at least two voices.")
    state, begun, step = out / "state.safetensors", 0.0, 0
    same = {name: value for name, value in asdict(settings).items() if name not in ("minutes", "save_minutes")}
    same |= {"codec": getattr(codec, "name", None), "clips": len(clips), "voices": len(crops.clips)}
    begin(out, init, same, state)
    if init:
        with reaching(str(init)):
            model = WavLMForXVector.from_pretrained(init, dtype=torch.float32, use_safetensors=True)
    else:
        model = new_verifier(speech=crops.batch()[0])
    # the bank stays: its gradient would take a third of a step
    model.wavlm.feature_extractor.conv_layers[0].conv.requires_grad_(False)
    model.objective = type(model.objective)(model.config.xvector_output_dim, len(crops.clips), margin=0.0)
    device = training_device()
    model.to(device)
    if state.exists():
        model.load_state_dict(load_file(state))
        with safe_open(state, "pt") as file:
            told = file.metadata() or {}
        begun, step = float(told.get("minutes", 0.0)), int(told.get("step", 0))
        crops.random = np.random.default_rng(settings.seed + step)  # or the same crops would come once more
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, settings.learning_rate, weight_decay=settings.weight_decay)
    spent, losses, first = begun * 60, [], step
    saved = spent
    watched = [clip for clip in watched if _can_be_read(clip)]
    each = Counter(clip.speaker for clip in watched)
    if each and (len(each) < 2 or max(each.values()) < 2):  # no pair of one voice, or none of two
        log.warning("No equal error rate: of the voices kept out, it needs two, and two clips of one.")
        watched = ()

    def checkpoint(record):
        with whole(state) as partial:
            weights = {k: v.contiguous() for k, v in model.state_dict().items()}
            save_file(weights, partial, {"minutes": str(spent / 60), "step": str(step)})
        save_verifier(model, out)
        if not losses:  # a run goes on that was at its end already
            return
        model.eval()
        loss = round(float(np.mean(losses[-500:])), 4)
        row = {"step": step, "minutes": round(spent / 60, 2), "loss": loss}
        if watched:
            vectors = np.stack([embedding(model, clip.load()) for clip in watched])
            row["equal_error_rate"] = round(equal_error_rate(*trials(vectors, [c.speaker for c in watched])), 4)
        model.train()
        record.write(json.dumps(row) + "\n")
        record.flush()
        log.info("%s", row)

    model.train()
    (out / "settings.json").write_text(json.dumps(asdict(settings) | {"voices": len(crops.clips)}, indent=1))
    with open(out / "log.jsonl", "a") as record:
        while spent < settings.minutes * 60:
            began = time.monotonic()
            done = spent / (settings.minutes * 60)
            rate = cosine_rate(step - first, settings.warmup_steps, done, 0.02)  # a fresh optimizer warms up
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * rate
            model.objective.margin = settings.margin * min(1.0, 5 * done)
            wavs, voices = crops.batch()
            with autocast(device):
                vectors = model(wavs.to(device)).embeddings
            loss = model.objective(vectors.float(), voices.to(device))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(learned, 1.0)
            optimizer.step()
            losses.append(loss.item())
            step += 1
            spent += time.monotonic() - began
            if spent - saved >= settings.save_minutes * 60:
                checkpoint(record)
                saved = spent
        checkpoint(record)
    return out


def _can_be_read(clip: Clip) -> bool:
    try:
        clip.load()
    except ValueError as error:
        log.warning("Clip %s is left out: %s", clip.id, error)
        return False
    return True


def save_verifier(model, out: Path) -> None:
    """fp16 safetensors without the training voices: what `AutoModelForAudioXVector` loads."""
    from transformers import Wav2Vec2FeatureExtractor, WavLMForXVector

    plain = WavLMForXVector(model.config)
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("objective")}, strict=False)
    nn.init.zeros_(plain.objective.weight)
    plain.half().save_pretrained(out)
    Wav2Vec2FeatureExtractor(sampling_rate=SAMPLE_RATE).save_pretrained(out)


def normalized(wav: np.ndarray) -> np.ndarray:
    """Zero mean, unit variance: what the feature extractor does."""
    return (wav - wav.mean()) / np.sqrt(wav.var() + 1e-7)


@torch.inference_mode()
def embedding(model, wav: np.ndarray) -> np.ndarray:
    """(dim,) float32 of unit length, from (samples,) at 16 kHz."""
    wav = torch.from_numpy(normalized(wav)).to(next(model.parameters()))
    return torch.nn.functional.normalize(model(wav[None]).embeddings[0].float(), dim=0).cpu().numpy()


def trials(vectors: np.ndarray, speakers: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Cosine of every pair of (n, dim) unit vectors, and whether the pair is one voice: (n(n-1)/2,) each."""
    first, second = np.triu_indices(len(vectors), 1)
    names = np.array(speakers)
    return (vectors @ vectors.T)[first, second], names[first] == names[second]


def equal_error_rate(scores: np.ndarray, same: np.ndarray) -> float:
    """The rate at which as many different voices are taken for one as one voice is taken for different ones."""
    order = np.argsort(scores)
    missed = np.cumsum(same[order]) / same.sum()  # accepted above the k-th score: same voices below it are missed
    passed = 1 - np.cumsum(~same[order]) / (~same).sum()
    return float(np.min(np.maximum(missed, passed)))
