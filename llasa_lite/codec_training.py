"""Trains a small X-codec2 from clips; knows the codec, nothing of language models.

    python -m llasa_lite train codec --data CORPUS --out DIR --minutes 45

Recipe: crops of whole clips; multi-resolution mel and STFT losses. The semantic encoder (log-mel in)
carries everything unless `train_acoustic`: then the acoustic encoder, which reads the raw wave, learns as well (its
columns of `fc_encoder` begin at zero). On a CPU its anti-aliased activations make a step three times as long.

Speech alone is enough. Where there are transcripts, codes can learn to be read (`reading`): a small recogniser writes
the words down from the codes alone, and its loss reaches the encoder (as CosyVoice supervises its tokens, arXiv
2407.05407), so that they say what was said, in voices that are new to them, too.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from .alignment import LEARNING_RATE, Aligner, can_be_read, letters, reading_loss
from .audio import FRAME_RATE, HOP_LENGTH, SAMPLE_RATE
from .checkpoints import PLAIN_GIT, autocast, reaching, training_device
from .codec import Codec, acoustic_columns, semantic_features
from .data import Clip, Kept, Repitched, disturbed
from .files import whole
from .finetuning import begin, check_alone
from .text import spell_out
from .tokens import character_tokenizer
from .training import cosine_rate

log = logging.getLogger(__name__)

# (FFT size, hop, mel bands) of the reconstruction losses
RESOLUTIONS = ((256, 64, 40), (512, 128, 80), (1024, 256, 80), (2048, 512, 80))
# What is fainter counts as silence: about -75 dB of full scale. The slope of a logarithm grows towards nothing, and
# with a lower floor the gradient would be that of the pauses between words.
FLOOR, MEL_FLOOR = 1e-2, 1e-3
SLOPE = 0.1  # of the discriminators' leaky rectifiers
FILLED = 0.6  # of a crop, at least, by its clip: the rest is padding
PERIODS = 2, 5, 11  # samples, of the discriminators (three of HiFi-GAN's)
MAKES_CODES = "semantic_encoder", "semantic_adapter", "acoustic_encoder", "fc_encoder", "quantizer.project_in"
WIDTH = 16  # codes: rows that are read are padded to a multiple
READER_FIRST = 500  # steps until what the recogniser says of the codes has its whole weight


@dataclass(frozen=True)
class CodecTraining:
    """Settings of a codec run."""

    minutes: float = 45.0  # wall time; the learning rate falls along a cosine over it
    batch: int = 12  # crops a step
    crop_seconds: tuple[float, ...] = (1.6, 1.6, 2.4, 3.2)  # drawn per step; batch shrinks for longer ones
    learning_rate: float = 5e-4
    warmup_steps: int = 200
    weight_decay: float = 0.01
    train_acoustic: bool = False  # the half that hears the wave itself, too
    adversarial_after: float = math.inf  # minutes after which discriminators join; inf: never
    judged_seconds: float = 0.5  # of every crop that discriminators hear: they take most of a step
    judge_learning_rate: float = 5e-4
    judges_share: float = 0.7  # of the gradient that reaches the wave; the reconstruction has the rest
    # Share of the weights a run began with in what it saves. What discriminators teach costs fidelity; between both
    # ends lies a decoder that is better than their mean (nano's: 0.25).
    kept: float = 0.0
    train_encoder: bool = True  # False: codes stay what they are and only the decoder learns
    reading: float = 0.0  # weight, beside 1 of the reconstruction, of a recogniser's loss a letter on the codes
    reading_seconds: float = 48.0  # of whole clips a step where codes are read; crops of them are decoded
    disturbed: float = 0.0  # share of crops heard through a room, a line or noise, and drawn clean: one code for both
    save_minutes: float = 3.0  # of training between two states: what a stop costs at most
    seed: int = 0


def small_codec_config():
    """nano's codec: 7.8M parameters, 4^6 = 4,096 codes, 600 bit/s."""
    from transformers import Wav2Vec2BertConfig, Xcodec2Config

    off = dict.fromkeys(
        ("layerdrop", "hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout"), 0.0
    )
    semantic = Wav2Vec2BertConfig(
        hidden_size=192,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=384,
        feature_projection_input_dim=160,
        conv_depthwise_kernel_size=15,
        conformer_conv_dropout=0.0,
        apply_spec_augment=False,
        position_embeddings_type=None,
        **off,
    )
    return Xcodec2Config(
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        encoder_hidden_size=4,
        # 2.5 times cheaper than the released (2, 2, 4, 4, 5) at the same hop of 320
        downsampling_ratios=(5, 8, 8),
        quantization_dim=256 + 192,
        quantization_levels=[4] * 6,
        semantic_model_config=semantic.to_dict(),
        activation_dropout=0.0,
        restore_timbre=True,
    )


def new_codec(config=None):
    """A fresh `Xcodec2Model` that can learn: Transformers' own initialisation (std 0.02) leaves one code alive."""
    from transformers import Xcodec2Model

    model = Xcodec2Model(config or small_codec_config())
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv1d)):
            module.reset_parameters()
    return model


def warm_start(path: str | Path, codes_stay: bool = False):
    """A fresh codec that takes every weight of the one in `path` whose name and shape fit.

    Raises:
        ValueError: codes are to stay what they are, and some of what makes them does not fit.
    """
    from transformers import Xcodec2Model

    model = new_codec()
    own = model.state_dict()
    with reaching(str(path)):
        found = Xcodec2Model.from_pretrained(path, dtype=torch.float32, use_safetensors=True).state_dict()
    taken = {k: v for k, v in found.items() if k in own and own[k].shape == v.shape}
    if codes_stay and any(k not in taken for k in own if k.startswith(MAKES_CODES)):
        raise ValueError(f"The codec in '{path}' has another shape than the one to be trained: its codes cannot stay.")
    model.load_state_dict(taken, strict=False)
    log.info("warm start: %d of %d tensors taken from %s", len(taken), len(own), path)
    return model


def silence_acoustic(model) -> None:
    """Zero the columns of `fc_encoder` that read the acoustic encoder: (out, semantic + acoustic)."""
    with torch.no_grad():
        acoustic_columns(model).zero_()


def encode_values(model, wav: torch.Tensor, acoustic: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """`Xcodec2Model.encode` with gradients (its own runs the semantic encoder under `no_grad`).

    Args:
        wav: (batch, samples), samples a multiple of 320.
    Returns:
        FSQ's rounded values (batch, codes, levels) in -1..1 with straight-through gradients, of which
        `quantizer.project_out` makes latents, and codes (batch, codes).
    """
    with torch.no_grad():
        features = semantic_features(wav)
    with autocast(wav.device):
        semantic = model.semantic_adapter(model.semantic_encoder(features).last_hidden_state.transpose(1, 2))
        if acoustic:
            sound = model.acoustic_encoder(wav[:, None])
        else:
            sound = semantic.new_zeros(semantic.shape[0], model.config.hidden_size, semantic.shape[2])
        hidden = model.fc_encoder(torch.cat([semantic, sound], 1).transpose(1, 2))
    fsq = model.quantizer.quantizer
    return fsq(fsq.bound(model.quantizer.project_in(hidden.float())))  # bounded twice, as `model.quantizer` does


def soft_digits(values: torch.Tensor, levels: list[int]) -> torch.Tensor:
    """`codec.code_digits` of codes, (batch, codes, sum of levels), with gradients for the values that were rounded: a
    digit's slope is that between its neighbours."""
    parts = []
    for value, count in zip(values.unbind(-1), levels):
        level = value * (count // 2) + count // 2  # 0 .. count - 1
        at, slopes = level.detach().round().long(), torch.gradient(torch.eye(count, device=value.device), dim=0)[0]
        parts.append(F.one_hot(at, count) + (level - level.detach())[..., None] * slopes[at])
    return torch.cat(parts, -1)


def decode_latents(model, latents: torch.Tensor) -> torch.Tensor:
    with autocast(latents.device):
        return model.acoustic_decoder(latents)[:, 0].float()  # (batch, samples)


class SpectralLoss(nn.Module):
    """Log-mel L1 + half log-magnitude L1 + half spectral convergence, averaged over the resolutions.

    Beside discriminators the log-mel part alone (as Vocos has it): what the others like best, where codes leave the
    detail open, is its blurred mean.
    """

    def __init__(self):
        super().__init__()
        import librosa

        for n_fft, _, bands in RESOLUTIONS:
            bank = librosa.filters.mel(sr=SAMPLE_RATE, n_fft=n_fft, n_mels=bands).astype(np.float32)
            self.register_buffer(f"bank_{n_fft}", torch.from_numpy(bank), persistent=False)

    def forward(self, made: torch.Tensor, real: torch.Tensor, mel_only: bool = False) -> torch.Tensor:
        total = made.new_zeros(())
        for n_fft, hop, _ in RESOLUTIONS:
            bank = getattr(self, f"bank_{n_fft}")
            a, b = stft(made, n_fft, hop).abs(), stft(real, n_fft, hop).abs()  # (batch, bins, frames)
            mel_a, mel_b = (bank @ a).clamp(min=MEL_FLOOR).log(), (bank @ b).clamp(min=MEL_FLOOR).log()
            total = total + (mel_a - mel_b).abs().mean()
            if not mel_only:
                log_a, log_b = a.clamp(min=FLOOR).log(), b.clamp(min=FLOOR).log()
                convergence = ((a - b).norm(dim=(1, 2)) / (b.norm(dim=(1, 2)) + 1e-3)).mean()
                total = total + 0.5 * (log_a - log_b).abs().mean() + 0.5 * convergence
        return total / len(RESOLUTIONS)


def stft(wav: torch.Tensor, n_fft: int, hop: int) -> torch.Tensor:
    return torch.stft(wav, n_fft, hop, n_fft, torch.hann_window(n_fft, device=wav.device), return_complex=True)


class SpectrumJudge(nn.Module):
    """A discriminator of complex spectra (EnCodec's MS-STFT, small): (batch, samples) -> verdict, features.

    Magnitudes are compressed (to the power of 0.3): it hears faint partials, and learns in a hundred steps what takes
    thousands on spectra as they are.
    """

    def __init__(self, n_fft: int, hop: int, width: int = 16):
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        plan = [(2, width, (2, 1)), (width, width, (2, 1)), (width, 2 * width, (2, 2)), (2 * width, 2 * width, (2, 1))]
        self.layers = nn.ModuleList(_normed(nn.Conv2d(i, o, (9, 3), stride, (4, 1))) for i, o, stride in plan)
        self.out = nn.Conv2d(2 * width, 1, 3, 1, 1)

    def forward(self, wav: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        spectrum = stft(wav, self.n_fft, self.hop) / self.n_fft**0.5
        spectrum = spectrum * spectrum.abs().clamp(min=1e-4) ** -0.7
        return _judged(self, torch.stack([spectrum.real, spectrum.imag], 1))


class PeriodJudge(nn.Module):
    """A discriminator of every p-th sample (HiFi-GAN's MPD, small): (batch, samples) -> verdict, features."""

    def __init__(self, period: int, widths: tuple[int, ...] = (16, 64, 128, 128)):
        super().__init__()
        self.period = period
        self.layers = nn.ModuleList(
            _normed(nn.Conv1d(i, o, 5, 3 if i < o else 1, 2)) for i, o in zip((1, *widths), widths)
        )
        self.out = nn.Conv1d(widths[-1], 1, 3, 1, 1)

    def forward(self, wav: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        folded = wav[:, : wav.shape[1] // self.period * self.period].unflatten(1, (-1, self.period))
        return _judged(self, folded.transpose(1, 2).flatten(0, 1)[:, None])  # (batch x period, 1, samples / period)


def _normed(layer: nn.Module) -> nn.Module:
    """Weight norm on weights that keep the size of what passes; PyTorch's own shrink it, and nothing is told apart."""
    nn.init.kaiming_normal_(layer.weight, SLOPE)
    nn.init.zeros_(layer.bias)
    return weight_norm(layer)


def _judged(judge, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    features = []
    with autocast(x.device):
        for layer in judge.layers:
            x = F.leaky_relu(layer(x), SLOPE)
            features.append(x)
        return judge.out(x).float(), features


def _padded(codes: int) -> int:
    """How many codes a row of so many is padded to: every new width has kernels compiled for it, on a CPU."""
    return -(-(codes + 1) // WIDTH) * WIDTH


class Crops:
    """Random crops of clips, kept in memory after their first use (`data.Kept`).

    Args:
        crop_seconds: lengths that crops are asked of; each has the clips that fill most of it.
        read: whether whole clips are asked for, too, with what they say.
    Raises:
        ValueError: a length that no clip fills, or no clip to read.
    """

    def __init__(self, clips: list[Clip | Repitched], seed: int, crop_seconds: Iterable[float] = (), read=False):
        self.random, self.cache = np.random.default_rng(seed), Kept()
        self.told: list[tuple[Clip | Repitched, list[int]]] = []  # clips by length, and the letters of each
        if read:
            tokenizer = character_tokenizer(1)
            told = ((clip, letters(spell_out(clip.text), tokenizer)[0]) for clip in clips)
            fitting = (pair for pair in told if can_be_read(int(pair[0].seconds * FRAME_RATE), pair[1]))
            self.told = sorted(fitting, key=lambda pair: pair[0].seconds)
            if not self.told:
                raise ValueError(f"Codes learn to be read from transcripts, and none of {len(clips)} clips has one.")
        self.clips = {seconds: [c for c in clips if c.seconds >= FILLED * seconds] for seconds in crop_seconds}
        for seconds, long in self.clips.items():
            if not long:
                least = f"at least {FILLED * seconds:.2g} s long"
                raise ValueError(f"Crops of {seconds:g} s need clips that are {least}; none of {len(clips)} is.")
            log.info("crops of %g s: %d of %d clips are too short", seconds, len(clips) - len(long), len(clips))

    def leave_out(self, clip: Clip | Repitched, error: ValueError) -> None:
        """A clip that cannot be read is drawn no more, as a crop or whole."""
        log.warning("Clip %s is left out: %s", clip.id, error)
        for some in self.clips.values():
            some[:] = [one for one in some if one != clip]
        self.told[:] = [pair for pair in self.told if pair[0] != clip]

    def batch(self, count: int, seconds: float) -> torch.Tensor:
        """(count, samples) float32, samples a multiple of 320. Clips that cannot be read are left out from then on;
        raises ValueError where none is left."""
        rows, clips, samples = [], self.clips[seconds], int(seconds * SAMPLE_RATE) // HOP_LENGTH * HOP_LENGTH
        while len(rows) < count:
            clip = clips[self.random.integers(len(clips))]
            try:
                wav = self.cache.wav(clip, clip.load)
            except ValueError as error:  # silent, broken or too long, which a header does not tell
                self.leave_out(clip, error)
                if not clips:
                    raise
                continue
            wav = np.pad(wav, (0, max(0, samples - len(wav))))
            start = self.random.integers(len(wav) - samples + 1)
            rows.append(wav[start : start + samples])
        return torch.from_numpy(np.stack(rows))

    def told_batch(self, seconds: float) -> tuple[torch.Tensor, list[int], list[list[int]]]:
        """Whole clips of about one length, so many seconds together: (count, samples) float32, the codes that are each
        one's own, and the letters that it says. Clips that cannot be read are left out, as by `batch`."""
        at = int(self.random.integers(len(self.told)))
        count = max(1, int(seconds * FRAME_RATE) // _padded(int(self.told[at][0].seconds * FRAME_RATE)))
        first = max(0, at + 1 - count)
        some = self.told[first : first + count]
        wavs, texts = [], []
        for clip, text in some:
            try:
                wavs.append(self.cache.wav(clip, clip.load))
            except ValueError as error:
                self.leave_out(clip, error)
                if not self.told:
                    raise
                continue
            texts.append(text)
        if not wavs:
            return self.told_batch(seconds)
        lengths = [len(wav) // HOP_LENGTH for wav in wavs]
        samples = _padded(max(lengths)) * HOP_LENGTH
        rows = np.stack([np.pad(wav, (0, samples - len(wav))) for wav in wavs])
        return torch.from_numpy(rows), lengths, texts

    def pieces(self, values: torch.Tensor, real: torch.Tensor, count: int, seconds: float):
        """Crops of some rows, as far as they are that long: values (count, codes, levels), and the waves (count,
        samples) that belong to them."""
        codes = min(values.shape[1], int(seconds * FRAME_RATE))
        rows = self.random.permutation(len(values))[:count]
        starts = self.random.integers(values.shape[1] - codes + 1, size=len(rows))
        waves = [real[row, at * HOP_LENGTH : (at + codes) * HOP_LENGTH] for row, at in zip(rows, starts)]
        return torch.stack([values[row, at : at + codes] for row, at in zip(rows, starts)]), torch.stack(waves)

    def part(self, samples: int, seconds: float) -> slice:
        """So many seconds of `samples`, anywhere."""
        length = min(samples, int(seconds * SAMPLE_RATE))
        start = int(self.random.integers(samples - length + 1))
        return slice(start, start + length)

    def disturb(self, wavs: torch.Tensor, share: float) -> torch.Tensor:
        """The same crops, (count, samples), a share of them as other microphones, rooms and lines bring them."""
        heard = wavs.clone()
        for row in np.flatnonzero(self.random.random(len(wavs)) < share):
            heard[row] = torch.from_numpy(disturbed(wavs[row].cpu().numpy(), self.random))
        return heard


def train_codec(
    clips: list[Clip | Repitched], out: str | Path, settings: CodecTraining, init: str | Path | None = None
) -> Path:
    """Train and save `out/` as an `Xcodec2Model` in fp16; log to `out/log.jsonl`; resume where `out/` left off.

    Args:
        clips: training clips, at 16 kHz after loading; with words where codes learn to be read.
        init: a codec folder to start from (weights that fit are taken).
    Raises:
        ValueError: weights are to be `kept`, or codes to stay, of a start from scratch, or codes of another shape; what
            stays is to be learned to be read; no clip is long enough for a crop; more than one process; `out` is `init`
            or was begun with other settings or clips.
    """
    check_alone("A codec is")
    if not settings.train_encoder and not init:
        raise ValueError("Codes that stay are those of a codec to start from: give it with --init.")
    if settings.reading and not settings.train_encoder:
        raise ValueError("Codes that stay as they are cannot learn to be read. Leave one of both out.")
    if settings.train_acoustic and not settings.train_encoder:
        raise ValueError("Codes that stay as they are cannot hear more. Leave --acoustic or --freeze-codes out.")
    if settings.kept and not init:
        raise ValueError("What is kept are the weights of a codec to start from: give it with --init.")
    out = Path(out)
    state_file = out / "state.pt"
    may_change = "minutes", "adversarial_after", "kept", "save_minutes"  # kept: of what is saved, not of what goes on
    same = {name: value for name, value in asdict(settings).items() if name not in may_change}
    begin(out, init, same | {"clips": len(clips)}, state_file)
    torch.manual_seed(settings.seed)
    device = training_device()
    if init:
        model = warm_start(init, not settings.train_encoder).to(device)
    else:
        model = new_codec().to(device)
        silence_acoustic(model)  # it begins as the half that speaks alone
    if device.type == "cpu":  # at these lengths the fused kernel's way back takes a tenth of a step more
        model.set_attn_implementation("eager")
    acoustic = settings.train_acoustic or bool(acoustic_columns(model).any())
    first = {k: v.clone() for k, v in model.state_dict().items()} if settings.kept else {}
    if not settings.train_encoder:
        for part in MAKES_CODES:
            model.get_submodule(part).requires_grad_(False)
    if not settings.train_acoustic:
        model.acoustic_encoder.requires_grad_(False)
    spectra = (SpectrumJudge(n_fft, hop) for n_fft, hop, _ in RESOLUTIONS[1:])
    judges = nn.ModuleList([*spectra, *map(PeriodJudge, PERIODS)]).to(device)
    spectral = SpectralLoss().to(device)
    reader = Aligner(model.config.quantization_levels).to(device)
    betas, same_for_all = (0.8, 0.99), {"weight_decay": settings.weight_decay, "fused": True}
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, settings.learning_rate, betas, **same_for_all)
    judge_optimizer = torch.optim.AdamW(judges.parameters(), settings.judge_learning_rate, betas, **same_for_all)
    reader_optimizer = torch.optim.AdamW(reader.parameters(), LEARNING_RATE, **same_for_all)
    parts = {"model": model, "judges": judges, "optimizer": optimizer, "judge_optimizer": judge_optimizer}
    if settings.reading:
        parts |= {"reader": reader, "reader_optimizer": reader_optimizer}
    step, spent = 0, 0.0  # steps, seconds
    if state_file.exists():
        state = torch.load(state_file, weights_only=True, map_location=device)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        step, spent = state["step"], state["seconds"]

    def checkpoint():
        with whole(state_file) as partial:  # a run killed here goes on from the one before
            torch.save({n: p.state_dict() for n, p in parts.items()} | {"step": step, "seconds": spent}, partial)
        state = {k: v.lerp(first[k], settings.kept) if k in first else v for k, v in model.state_dict().items()}
        half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
        model.save_pretrained(out, state_dict=half, max_shard_size=PLAIN_GIT)

    reading = settings.reading > 0  # crops are then of whole clips, however short
    crops = Crops(clips, settings.seed + step, () if reading else settings.crop_seconds, reading)
    model.train()
    saved = spent
    losses: list[float] = []
    read: list[float] = []  # loss a letter
    judged: list[tuple[float, float]] = []  # the discriminators' mean loss, and how far features are apart
    (out / "settings.json").write_text(json.dumps(asdict(settings) | {"clips": len(clips)}, indent=1, default=str))
    with open(out / "log.jsonl", "a") as record:
        while spent < settings.minutes * 60:
            began = time.monotonic()
            done = spent / (settings.minutes * 60)
            rate = cosine_rate(step, settings.warmup_steps, done, 0.05)
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * rate
            for group in reader_optimizer.param_groups:
                group["lr"] = LEARNING_RATE * rate
            seconds = settings.crop_seconds[crops.random.integers(len(settings.crop_seconds))]
            count = max(1, round(settings.batch * min(settings.crop_seconds) / seconds))
            if settings.reading:
                real, lengths, texts = crops.told_batch(settings.reading_seconds)
                real = real.to(device)
            else:
                real = crops.batch(count, seconds).to(device)
            heard = crops.disturb(real, settings.disturbed)
            values, codes = encode_values(model, heard, acoustic)
            if settings.reading:
                with autocast(device):
                    scores = reader.read(soft_digits(values, model.config.quantization_levels))
                misread = reading_loss(scores, lengths, texts)
                read.append(misread.item())
                values, real = crops.pieces(values, real, count, seconds)
            made = decode_latents(model, model.quantizer.project_out(values))
            adversarial = spent / 60 >= settings.adversarial_after
            reconstruction = spectral(made, real, mel_only=adversarial)
            gradient, size = _pull(reconstruction, made)
            if adversarial:
                part = crops.part(real.shape[1], settings.judged_seconds)
                judge_loss = sum(
                    F.relu(1 - judge(real[:, part])[0]).mean() + F.relu(1 + judge(made[:, part].detach())[0]).mean()
                    for judge in judges
                )
                judge_optimizer.zero_grad()
                judge_loss.backward()
                judge_optimizer.step()
                deceit, matching = adversarial_losses(judges, made[:, part], real[:, part])
                share = settings.judges_share
                gradient = (1 - share) * gradient + share * _pull(deceit + matching, made)[0]
                judged.append((judge_loss.item() / len(judges), matching.item()))
            optimizer.zero_grad()
            if settings.reading:  # the recogniser has to read a little before it can tell the encoder anything
                weight = settings.reading * min(1.0, step / READER_FIRST) / size
                reader_optimizer.zero_grad()
                torch.autograd.backward([made, misread], [gradient, weight])
                nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
                reader_optimizer.step()
            else:
                made.backward(gradient)
            nn.utils.clip_grad_norm_(learned, 1.0)
            optimizer.step()
            losses.append(reconstruction.item())
            step += 1
            spent += time.monotonic() - began
            if step % 50 == 0:
                row = {
                    "step": step,
                    "minutes": round(spent / 60, 2),
                    "reconstruction": round(float(np.mean(losses[-50:])), 4),
                    "codes_in_batch": int(codes.unique().numel()),
                    "learning_rate": optimizer.param_groups[0]["lr"],
                }
                if read:
                    row["reading"] = round(float(np.mean(read[-50:])), 4)
                if judged:
                    judge, matching = np.mean(judged[-50:], 0).round(4).tolist()
                    row |= {"judges": judge, "matching": matching}
                record.write(json.dumps(row) + "\n")
                record.flush()
                log.info("%s", row)
            if spent - saved >= settings.save_minutes * 60:
                checkpoint()
                saved = spent
    checkpoint()
    return out


def note_silent_codes(folder: str | Path) -> None:
    """Write into a codec's config which codes are heard as silence: rows that say nothing else are then stopped."""
    codec = Codec.from_pretrained(str(folder))
    codec.model.config.silent_codes = codec.find_silent_codes()
    codec.model.config.save_pretrained(folder)


def adversarial_losses(judges: nn.ModuleList, made: torch.Tensor, real: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Means over discriminators: the hinge loss of what was made, and how far its features are from the real ones'."""
    deceit = matching = made.new_zeros(())
    for judge in judges:
        verdict, made_features = judge(made)
        with torch.no_grad():
            _, real_features = judge(real)
        apart = sum((a - b).abs().mean() / (b.abs().mean() + 1e-4) for a, b in zip(made_features, real_features))
        deceit, matching = deceit - verdict.mean(), matching + apart / len(made_features)
    return deceit / len(judges), matching / len(judges)


def _pull(loss: torch.Tensor, made: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss' gradient at the wave that was made, brought to length 1 so that losses of any size can be given shares
    (EnCodec's balancer, arXiv 2210.13438), and the length it had."""
    gradient = torch.autograd.grad(loss, made, retain_graph=True)[0]
    size = gradient.norm() + 1e-12
    return gradient / size, size
