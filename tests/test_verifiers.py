"""Laws of verifiers: one score a wave whatever else is scored, silence lowest, and combinations written down."""

import itertools
import json
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import WHISPER, buzz

from llasa_lite import VERIFIERS, Sampling
from llasa_lite.audio import SAMPLE_RATE
from llasa_lite.evaluation.listening import Judge
from llasa_lite.recognition import read_greedily
from llasa_lite.text import edits
from llasa_lite.verifiers import NO_LLASA, Own, Target, criterion, verifier
from llasa_lite.verifiers.asr import Recogniser

# wav2vec 2.0's shape
TINY = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=(8,) * 7)


@pytest.fixture(scope="session")
def emotion_folder(tmp_path_factory):
    """A small random wav2vec 2.0 classifier with its feature extractor."""
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForSequenceClassification

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("emotion")
    shape = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, conv_dim=(16,) * 7)
    config = Wav2Vec2Config(**shape, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2, num_labels=4)
    Wav2Vec2ForSequenceClassification(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(return_attention_mask=False).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def ctc_folder(tmp_path_factory):
    """wav2vec 2.0 with one wrong letter for everything: one character a word."""
    import torch
    from transformers import (
        Wav2Vec2Config,
        Wav2Vec2CTCTokenizer,
        Wav2Vec2FeatureExtractor,
        Wav2Vec2ForCTC,
        Wav2Vec2Processor,
    )

    folder = tmp_path_factory.mktemp("ctc")
    (folder / "vocab.json").write_text(json.dumps({"<pad>": 0, "<unk>": 1, "|": 2, "A": 3}))
    tokenizer = Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
    Wav2Vec2Processor(Wav2Vec2FeatureExtractor(return_attention_mask=False), tokenizer).save_pretrained(folder)
    config = Wav2Vec2Config(**TINY, vocab_size=4, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2)
    torch.manual_seed(0)
    model = Wav2Vec2ForCTC(config)
    with torch.no_grad():
        model.lm_head.bias[3] = 3.0
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def moonshine_folder(tmp_path_factory):
    """A small random Moonshine with a word a token."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        MoonshineConfig,
        MoonshineForConditionalGeneration,
        PreTrainedTokenizerFast,
        Wav2Vec2FeatureExtractor,
        Wav2Vec2Processor,
    )

    folder = tmp_path_factory.mktemp("moonshine")
    words = Tokenizer(
        models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2, **{f"w{k}": k for k in range(3, 40)}}, "<unk>")
    )
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    Wav2Vec2Processor(Wav2Vec2FeatureExtractor(do_normalize=False), tokenizer).save_pretrained(folder)
    shape = dict(hidden_size=16, intermediate_size=16, initializer_range=1.0, vocab_size=40)
    heads = {f"{part}_num_attention_heads": 2 for part in ("encoder", "decoder")}
    layers = {f"{part}_num_hidden_layers": 1 for part in ("encoder", "decoder")}
    torch.manual_seed(0)
    model = MoonshineForConditionalGeneration(MoonshineConfig(**shape, **heads, **layers))
    model.generation_config.max_length, model.config.pad_token_id = 12, 2
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def own(nano):
    """What nano lends."""
    return Own("cpu", ("en",), nano.engine, nano.protocol, lambda batch: [f"{len(codes)} codes" for codes in batch])


OF_OTHERS = [f"{name}:{kind}" for name in ("asr", "likelihood") for kind in ("ctc", "moonshine")]


@pytest.fixture(params=["speaker", "emotion", "asr", "likelihood", "quality", *OF_OTHERS])
def any_verifier(request, own):
    name, _, recogniser = request.param.partition(":")
    assert name in VERIFIERS
    if recogniser:
        return verifier(f"{name}:{request.getfixturevalue(recogniser + '_folder')}")
    if request.param in ("speaker", "emotion"):
        return verifier(f"{request.param}:{request.getfixturevalue(request.param + '_folder')}")
    if request.param == "quality":
        pytest.importorskip("speechmos", reason="pip install llasa-lite[quality]")
        return verifier("quality")
    return verifier(request.param, own)


# Seconds that doubled again and again are little more than 9: DNSMOS takes so many, and again for every one beyond.
WAVES = [buzz(1.2, seed=1), buzz(2.4, seed=2), buzz(0.036, seed=3), np.zeros(8000, np.float32), np.zeros(0, np.float32)]
TARGET = Target("6 codes", buzz(1.5))


def codes_of(waves, seed=0):
    random = np.random.default_rng(seed)
    return [random.integers(0, 4096, len(wav) // 320) for wav in waves]


CODES = codes_of([np.zeros(samples) for samples in (16_000, 32_000, 480, 8_000, 0)])


def test_every_score_lies_in_its_range_and_silence_is_lowest(any_verifier):
    scores = any_verifier.score(WAVES, TARGET, CODES)
    assert len(scores) == 5 and all(isinstance(score, float) for score in scores)
    assert all(any_verifier.low <= score <= any_verifier.high for score in scores)
    assert scores[3] == scores[4] == any_verifier.low
    assert any_verifier.score([], TARGET, []) == []


def test_a_score_does_not_depend_on_the_company(any_verifier):
    together = any_verifier.score(WAVES, TARGET, CODES)
    alone = [any_verifier.score([wav], TARGET, [one])[0] for wav, one in zip(WAVES, CODES)]
    rounding = 2e-3 if any_verifier.name == "likelihood" else 1e-4  # bfloat16 where the processor has it
    np.testing.assert_allclose(together, alone, atol=rounding)
    np.testing.assert_allclose(any_verifier.score(WAVES[::-1], TARGET, CODES[::-1]), together[::-1], atol=rounding)


def test_waves_of_any_number_and_length_take_bounded_memory(speaker_folder, monkeypatch):
    judge, passes = verifier(f"speaker:{speaker_folder}"), []
    judge.load()
    whole = type(judge)._vectors
    monkeypatch.setattr(
        judge, "_vectors", lambda inputs: passes.append(inputs["input_values"].shape) or whole(judge, inputs)
    )
    monkeypatch.setattr("llasa_lite.verifiers.SECONDS_AT_ONCE", 2)
    assert len(judge.embed([buzz(0.5)] * 5 + [buzz(3.0)] * 2)) == 7
    assert [tuple(shape) for shape in passes] == [(4, 8_000), (1, 8_000), (1, 48_000), (1, 48_000)]


def test_a_verifier_tells_model_unit_and_range(any_verifier):
    facts = json.loads(json.dumps(any_verifier.facts()))
    assert facts["name"].partition(":")[0] in VERIFIERS
    assert facts["source"] and facts["unit"] and facts["low"] < facts["high"]


@pytest.mark.parametrize("name", ["speaker", "emotion"])
def test_a_wave_is_most_like_itself_at_any_loudness(name, request, monkeypatch):
    monkeypatch.setattr("llasa_lite.verifiers.SECONDS_AT_ONCE", 3)
    like = verifier(f"{name}:{request.getfixturevalue(name + '_folder')}")
    one, other = buzz(1.5), np.random.default_rng(0).normal(0, 0.1, 24_000).astype(np.float32)
    scores = like.score([one, 0.2 * one, other], Target(reference=one))
    assert scores[0] == pytest.approx(1, abs=1e-5) and scores[1] == pytest.approx(1, abs=1e-3)
    assert scores[2] < scores[1]
    assert like.score([other], Target(reference=other))[0] == pytest.approx(1, abs=1e-5)  # no reference is remembered
    with pytest.raises(ValueError, match=f"The verifier '{name}:.*' compares with a reference"):
        like.score([one], Target())


# -- likelihood ------------------------------------------------------------------------------------------------------


def test_likelihood_is_what_the_recognition_mode_gives_each_id(nano, own):
    """The same log-probabilities as the engine's, id by id, on the transcript that it chose itself."""
    codes = np.random.default_rng(0).integers(0, 4096, 40)
    beams = nano.engine.start(nano.protocol.asr_prompt(codes), 1, "text", Sampling(temperature=0), 0, 12)
    beams.advance(12)
    text = nano.protocol.ids_to_text(beams.ids[0])
    again = nano.protocol.text_to_ids(text)
    assert again == beams.ids[0][: len(again)]  # but for spaces at its end
    likelihood = verifier("likelihood", own)
    score = likelihood.score([buzz(0.8)], Target(text), [codes])[0]
    whole = score * (len(again) + 1)
    closed = nano.engine.start([*nano.protocol.asr_prompt(codes), *again], 1, "text", Sampling(temperature=0), 0, 1)
    end = (closed.logits[0, 0] - closed.logits[0].logsumexp(-1)).item()
    assert whole == pytest.approx(sum(beams.log_probabilities[0][: len(again)]) + end, abs=0.1)


def test_what_cannot_be_written_does_not_count(nano, own):
    """An unknown character is no END in the middle of the text."""
    likelihood, codes = verifier("likelihood", own), codes_of([buzz(1.0)])
    plain, marked = (likelihood.score([buzz(1.0)], Target(t), codes)[0] for t in ("one two", "one ♫two"))
    assert plain == marked


def test_what_the_model_reads_is_likelier_than_other_words(nano, own):
    codes = codes_of([buzz(1.0)])
    heard = read_greedily(nano.engine, nano.protocol, codes)[0]
    likelihood = verifier("likelihood", own)
    mine, other = (likelihood.score([buzz(1.0)], Target(text), codes)[0] for text in (heard, "zx qj vk zx qj vk"))
    assert mine > other


def test_a_recogniser_of_others_weighs_as_in_its_training(moonshine_folder):
    """Minus the loss that Transformers gives for the text as labels."""
    import torch

    recogniser, wav = Recogniser(moonshine_folder), buzz(1.0)
    inputs = recogniser.processor([wav], sampling_rate=SAMPLE_RATE, return_tensors="pt")
    with torch.inference_mode():
        loss = recogniser.model(**inputs, labels=torch.tensor([[7, 9, 8, 2]])).loss
    assert verifier(f"likelihood:{moonshine_folder}").score([wav], Target("w7 w9 w8"))[0] == pytest.approx(-loss.item())


def test_ctc_sums_over_every_way_to_say_it(ctc_folder):
    """Four frames: all 256 ways counted out; what its letters cannot write is left out, and its case is found."""
    import torch

    recogniser, wav = Recogniser(ctc_folder), buzz(0.1)
    inputs = recogniser.processor([wav], sampling_rate=SAMPLE_RATE, return_tensors="pt")
    with torch.inference_mode():
        chances = recogniser.model(**inputs).logits[0].double().softmax(-1).numpy()
    assert chances.shape == (4, 4)
    whole = 0.0
    for way in itertools.product(range(4), repeat=4):
        said = [one for one, _ in itertools.groupby(way) if one != 0]
        if said == [3, 2, 3]:  # "A A"
            whole += np.prod([chances[frame, one] for frame, one in enumerate(way)])
    weighed = recogniser.weigh([wav], "A, a?")[0]
    assert len(weighed) == 3 and weighed.sum() == pytest.approx(np.log(whole), abs=1e-3)
    likelihood = verifier(f"likelihood:{ctc_folder}")
    assert likelihood.score([wav], Target("a a a a"))[0] == likelihood.low  # more letters than frames


def test_whisper_weighs_the_text_that_is_said():
    """In the language that it is told, or takes the clip for; many at once as each by itself."""
    if not WHISPER.is_dir():
        pytest.skip(f"no Whisper weights in '{WHISPER}': name their folder in the variable WHISPER")
    from llasa_lite import builtin_voices

    voices = list(builtin_voices().values())[:2]
    waves, text, recogniser = [voice.wav for voice in voices], voices[0].text, Recogniser(str(WHISPER))
    told = [[one.mean() for one in recogniser.weigh(waves, voice.text, "en")] for voice in voices]
    assert told[0][0] > told[0][1] + 1 and told[1][1] > told[1][0] + 1
    np.testing.assert_allclose([one.mean() for one in recogniser.weigh(waves, text)], told[0], atol=1e-3)
    assert recogniser.weigh(waves[:1], text, "en")[0].mean() == pytest.approx(told[0][0], abs=1e-3)
    assert recogniser.weigh(waves[:1], text, "de")[0].mean() < told[0][0]
    with pytest.raises(ValueError, match="writes at most 444 tokens at once; this text has 501"):
        recogniser.weigh(waves[:1], "well " * 500, "en")


# -- asr -------------------------------------------------------------------------------------------------------------


def test_own_recognition_reads_codes(own):
    asr = verifier("asr", own)
    assert asr.source == "own"
    waves = [buzz(0.5)] * 2
    assert asr.score(waves, Target("Seven Codes!"), [np.zeros(7), np.zeros(9)]) == [0.0, -0.5]  # heard: "7 codes"
    assert asr.score(waves[:1], Target("你好"), [np.zeros(7)]) == [-1.0]  # cut off: six wrong of two characters
    with pytest.raises(ValueError, match="reads back codes"):
        asr.score(waves, Target("seven"))


def test_the_default_recogniser_depends_on_what_there_is():
    assert verifier("asr").source == "openai/whisper-base"
    assert verifier("asr", Own("cuda:0")).source == "openai/whisper-large-v3-turbo"
    assert verifier("asr", Own("cuda", read=str)).source == "own"
    assert verifier("asr:openai/whisper-tiny", Own("cuda", read=str)).source == "openai/whisper-tiny"


def test_the_default_speaker_model_depends_on_whose_voices_they_are(nano, monkeypatch):
    assert verifier("speaker").source == nano.verifier("speaker").source == "nano"
    monkeypatch.delattr(nano.codec.model.config, "restore_timbre")  # the released codec has no such thing
    assert nano.verifier("speaker").source == "microsoft/wavlm-base-plus-sv"
    assert nano.verifier("speaker:nano").source == "nano"


@pytest.mark.parametrize("name", ["speaker", "emotion"])
def test_what_compares_voices_is_read_once(name, request):
    folder = request.getfixturevalue(f"{name}_folder")
    first, second = (verifier(f"{name}:{folder}") for _ in range(2))
    first.load(), second.load()
    assert first.model is second.model


def test_whisper_as_verifier():
    """Clips of real speech: the one that says the text scores best."""
    if not WHISPER.is_dir():
        pytest.skip(f"no Whisper weights in '{WHISPER}': name their folder in the variable WHISPER")
    from llasa_lite import builtin_voices

    spoken = list(builtin_voices().values())[:3]
    if not spoken:
        pytest.skip("no voices are built in yet")
    scores = verifier(f"asr:{WHISPER}").score([voice.wav for voice in spoken], Target(spoken[1].text))
    assert scores[1] == max(scores) > max(scores[0], scores[2]) + 0.3


def test_whisper_hears_more_than_30_s():
    if not WHISPER.is_dir():
        pytest.skip(f"no Whisper weights in '{WHISPER}': name their folder in the variable WHISPER")
    from llasa_lite import builtin_voices

    spoken = list(builtin_voices().values())
    spoken += spoken[:5]
    wav = np.concatenate([voice.wav for voice in spoken])
    assert len(wav) > 40 * SAMPLE_RATE
    hear = Recogniser(str(WHISPER)).hear
    long, short = hear([wav, spoken[0].wav], "en")
    assert short == hear([spoken[0].wav], "en")[0]
    wrong, words = edits(" ".join(voice.text for voice in spoken), long)
    assert wrong < 0.2 * words


@pytest.mark.parametrize("installed", [True, False])
def test_characters_of_both_kinds_are_the_same_word(own, monkeypatch, installed):
    """Whisper writes simplified Chinese and traditional. Without OpenCC they are taken as they are written."""
    from llasa_lite import text

    text._simplifier.cache_clear()
    if installed:
        pytest.importorskip("opencc", reason="pip install llasa-lite[eval]")
    else:
        monkeypatch.setitem(sys.modules, "opencc", None)
    asr = verifier("asr", replace(own, read=lambda batch: ["一個人", "一个人", "两个人"]))
    scores = asr.score([buzz(0.5)] * 3, Target("一个人。"), [np.zeros(7)] * 3)
    assert scores == pytest.approx([0, 0, -1 / 3] if installed else [-1 / 3, 0, -1 / 3])


def test_the_language_of_the_text_is_told_where_there_are_two(own):
    """Chinese that fails is not taken for Japanese, nor English for Welsh."""
    for languages, text, told in (
        (("zh", "en"), "你好。", "zh"),
        (("zh", "en"), "Oh, yes.", "en"),
        (("zh", "en"), "Oh，yes！", "en"),  # as typed on a Chinese keyboard
        (("zh", "en", "ja"), "你好。", None),
    ):
        asr = verifier("asr:some/whisper", Own(languages=languages))
        asr.recogniser, asr._loaded, asked = SimpleNamespace(), True, []
        asr.recogniser.hear = lambda waves, language, asked=asked: asked.append(language) or ["" for _ in waves]
        asr.score([buzz(0.5)], Target(text))
        assert asked == [told]


def test_a_recogniser_may_be_ctc(ctc_folder):
    assert verifier(f"asr:{ctc_folder}").score([buzz(1.0), buzz(0.5)], Target("A b")) == [-0.5, -0.5]


def test_a_recogniser_may_be_an_encoder_and_decoder_that_is_not_whisper(moonshine_folder):
    """Moonshine normalises over a whole wave: padded to a longer one it would hear something else."""
    waves = [buzz(1.0), buzz(0.5), np.random.default_rng(0).normal(0, 0.1, 12000).astype(np.float32)]
    hear = Recogniser(moonshine_folder).hear
    alone = [hear([wav])[0] for wav in waves]
    assert hear(waves) == alone and len(set(alone)) > 1 and all(alone)
    assert Judge(moonshine_folder)(waves[0]) == alone[0]


def test_a_model_without_the_head_that_judges_is_refused(tmp_path):
    """Transformers would draw it: another order of the same candidates at every load."""
    from transformers import AutoFeatureExtractor, Wav2Vec2Config, Wav2Vec2Model, WavLMModel

    from llasa_lite.verifiers.speaker import NANO_VERIFIER

    WavLMModel.from_pretrained(NANO_VERIFIER).save_pretrained(tmp_path / "wavlm")
    Wav2Vec2Model(Wav2Vec2Config(**TINY, num_conv_pos_embedding_groups=2)).save_pretrained(tmp_path / "wav2vec2")
    for folder in tmp_path.iterdir():
        AutoFeatureExtractor.from_pretrained(NANO_VERIFIER).save_pretrained(folder)
    with pytest.raises(ValueError, match="was not trained to tell speakers apart"):
        verifier(f"speaker: {tmp_path / 'wavlm'}").load()
    with pytest.raises(ValueError, match="no such folder, and it is no hub id"):
        verifier("speaker:/no/such").load()


@pytest.mark.parametrize("asked, kind", [("speaker", "speaker"), ("emotion", "emotion"), ("asr", "ctc")])
def test_weights_that_are_no_safetensors_are_refused(asked, kind, request, tmp_path):
    """A pickle may hold code."""
    import torch
    from safetensors.torch import load_file

    folder = shutil.copytree(request.getfixturevalue(f"{kind}_folder"), tmp_path / "pickled")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="Cannot load .*pickled"):
        verifier(f"{asked}:{folder}").load()


@pytest.mark.parametrize("asked, kind", [("speaker", "speaker"), ("emotion", "emotion"), ("asr", "ctc")])
def test_safetensors_that_the_hub_proposed_are_found_again_offline(asked, kind, request, tmp_path, monkeypatch):
    """superb/wav2vec2-base-superb-er and facebook/hubert-large-ls960-ft hold pickles; their safetensors are an open
    pull request of the hub's converter, which leaves the cache as it is here."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--some--classifier"
    main, proposed = (folder / "snapshots" / (letter * 40) for letter in "ab")
    shutil.copytree(request.getfixturevalue(f"{kind}_folder"), main)
    proposed.mkdir()
    (main / "model.safetensors").rename(proposed / "model.safetensors")
    (folder / "refs/refs/pr").mkdir(parents=True)
    (folder / "refs/main").write_text(main.name)
    one = verifier(f"{asked}:some/classifier")
    with pytest.raises(ValueError, match="Cannot load 'some/classifier'"):
        one.load()
    (folder / "refs/refs/pr/2").write_text(proposed.name)
    one.load()
    assert one.score([buzz(1.0)], Target("A b", buzz(1.0)))[0] >= -0.5


# -- names and combinations ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked, sentence",
    [
        ("spk", "Unknown verifier 'spk'. Choose from: asr, emotion, likelihood, quality, speaker."),
        ("asr, asr", "'asr, asr' names a verifier twice."),
        ("much*asr + 1*emotion", "'much' in 'much*asr + 1*emotion' is not a weight. Write 0.7*asr + 0.3*speaker."),
        ("likelihood", "The verifier 'likelihood' is the checkpoint's own recognition mode, which this one was never"),
        ("likelihood:own", "The verifier 'likelihood' is the checkpoint's own recognition mode, which this one was"),
        ("asr:own", "This checkpoint cannot transcribe its own speech. Give a recogniser: asr:HUB_ID."),
        ("quality:utmos", "Unknown quality model 'utmos'. There is one: dnsmos."),
        ("", "Unknown verifier ''. Choose from:"),
    ],
)
def test_what_cannot_be_had_is_said_in_a_sentence(asked, sentence):
    with pytest.raises(ValueError) as refused:
        criterion(asked, NO_LLASA)
    assert str(refused.value).startswith(sentence)


def test_a_model_that_is_not_here_is_said_in_a_sentence():
    for name in ("asr", "speaker", "emotion", "likelihood"):
        with pytest.raises(ValueError, match="Cannot load 'somebody/nothing'") as refused:
            verifier(f"{name}:somebody/nothing").load()
        # there is a built-in one of speakers alone
        assert ("or say 'nano'" in str(refused.value)) == (name == "speaker"), name


def test_nanos_own_speaker_verifier_knows_the_built_in_voices_through_the_codec(nano):
    """A law of its weights: each voice's resynthesis is liker to itself than to most others."""
    from llasa_lite import builtin_voices

    one = verifier("speaker")
    assert one.source == "nano"
    waves = [voice.wav for voice in builtin_voices().values()]
    again = [nano.codec.decode(voice.codes[nano.codec.name]) for voice in builtin_voices().values()]
    alike = np.array([one.score(again, Target(reference=wav)) for wav in waves])
    ranks = (alike > alike.diagonal()[:, None]).sum(1)
    assert np.median(ranks) <= 1 and ranks.mean() < 1.5  # of 12 others


def test_the_first_decides_and_the_next_only_where_it_is_equal(own):
    both = criterion("asr, likelihood", own)
    rows = [{"asr": -0.5, "likelihood": -1.0}, {"asr": 0.0, "likelihood": -9.0}, {"asr": 0.0, "likelihood": -8.0}]
    assert sorted(range(3), key=lambda k: both.order(rows[k])) == [0, 1, 2]
    assert both.facts()["order"] == "first decides" and both.facts()["weights"] is None


def test_weights_make_one_number_and_are_written_down(own):
    both = criterion("0.5*asr + 2 * likelihood", own)
    assert both.order({"asr": -1.0, "likelihood": -0.25}) == (-1.0,)
    assert criterion("asr + 2*speaker").weights == (1.0, 2.0)
    assert both.facts()["weights"] == (0.5, 2.0) and both.facts()["order"] == "weighted sum"
    assert [v["name"] for v in both.facts()["verifiers"]] == ["asr", "likelihood"]


def test_naming_a_verifier_loads_no_model(own):
    assert not any(one._loaded for one in criterion("asr:openai/whisper-base, emotion, likelihood", own).verifiers)


def test_a_language_model_elsewhere_gives_no_likelihood(own):
    with pytest.raises(ValueError, match="'likelihood' needs the language model here"):
        verifier("likelihood", replace(own, engine=None))


def test_a_classifier_that_hears_no_raw_waves_is_refused_in_a_sentence(tmp_path):
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForAudioClassification

    shape = dict(d_model=16, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=16, num_labels=4)
    WhisperForAudioClassification(WhisperConfig(**shape)).save_pretrained(tmp_path)
    WhisperFeatureExtractor().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is no emotion classifier on raw waves"):
        verifier(f"emotion:{tmp_path}").score([buzz(1.0)], Target(reference=buzz(1.0)))
