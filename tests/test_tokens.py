"""Laws of the token protocol: for nano's tokenizer, and for the released checkpoints' token by token."""

import numpy as np
import pytest
from conftest import CARD_MARKERS

from llasa_lite import tokens
from llasa_lite.tokens import IGNORE, Protocol, character_tokenizer

SENTENCES = [
    "Hello there.",
    "It's 7:45 - don't be late, \"dear\" friend!",
    "突然,身边一阵笑声。我看着他们,意气风发地挺直了胸膛。",
    "Dealing with family secrets is never easy.  Two spaces, a\ttab and 🎈 too.",
]


@pytest.fixture(scope="module", params=["nano", "llama_3"])
def protocol(request):
    return request.getfixturevalue("nano").protocol if request.param == "nano" else request.getfixturevalue("llama_3")


# -- codes and ids ---------------------------------------------------------------------------------------------------


def test_codes_survive_the_round_trip_through_ids(protocol):
    codes = np.random.default_rng(0).integers(0, protocol.codebook_size, 1000)
    codes[:2] = 0, protocol.codebook_size - 1
    ids = protocol.codes_to_ids(codes)
    assert protocol.ids_to_codes(ids).tolist() == codes.tolist()
    names = protocol.tokenizer.convert_ids_to_tokens(ids)
    assert names == [f"<|s_{code}|>" for code in codes]
    assert protocol.ids_to_codes([]).size == 0 and protocol.codes_to_ids([]) == []


@pytest.mark.parametrize("beyond", [-1, 0])
def test_a_code_out_of_range_is_refused(protocol, beyond):
    code = protocol.codebook_size if beyond == 0 else -1
    with pytest.raises(ValueError, match=f"Codes must lie in 0..{protocol.codebook_size - 1}"):
        protocol.codes_to_ids([0, code])
    with pytest.raises(ValueError, match="Codes must lie"):
        protocol.tts_prompt("hello", [code])


def test_an_id_that_is_no_speech_is_refused(protocol):
    for wrong in (protocol.code_offset - 1, protocol.code_offset + protocol.codebook_size, protocol.speech_end):
        with pytest.raises(ValueError, match="outside the speech range"):
            protocol.ids_to_codes([protocol.code_offset, wrong])


def test_end_comes_first_in_speech_ids_and_every_code_follows(protocol):
    ids = protocol.speech_ids()
    assert ids[0] == protocol.tokenizer.convert_tokens_to_ids("<|SPEECH_GENERATION_END|>")
    assert protocol.ids_to_codes(ids[1:]).tolist() == list(range(protocol.codebook_size))


def test_end_comes_first_in_text_ids_and_only_words_follow(protocol):
    ids = protocol.text_ids()
    assert ids[0] == protocol.tokenizer.convert_tokens_to_ids("<|TEXT_GENERATION_END|>")
    rest = set(ids[1:].tolist())
    assert len(rest) == len(ids) - 1
    assert not rest & set(protocol.tokenizer.get_added_vocab().values())
    assert rest.issuperset(protocol.text_to_ids("it was a good day, said anna."))


# -- prompts ---------------------------------------------------------------------------------------------------------


def cards_ids(tokenizer, text, codes, **template):
    """The recipe of the model card of HKUSTAudio/Llasa-1B."""
    formatted_text = f"<|TEXT_UNDERSTANDING_START|>{text}<|TEXT_UNDERSTANDING_END|>"
    speech_tokens = "".join(f"<|s_{code}|>" for code in codes)
    chat = [
        {"role": "user", "content": "Convert the text to speech:" + formatted_text},
        {"role": "assistant", "content": "<|SPEECH_GENERATION_START|>" + speech_tokens},
    ]
    encoded = tokenizer.apply_chat_template(
        chat, tokenize=True, return_tensors="pt", return_dict=True, continue_final_message=True, **template
    )
    return encoded["input_ids"][0].tolist()


@pytest.mark.parametrize("codes", [[], [0, 65_535, 7, 7, 31_000]], ids=["no-voice", "voice"])
@pytest.mark.parametrize("text", SENTENCES)
def test_prompt_equals_the_model_cards(llama_3, text, codes):
    wanted = cards_ids(llama_3.tokenizer, text, codes, date_string=tokens.DATE_STRING)
    assert llama_3.tts_prompt(text, codes) == wanted


def test_prompt_reads_as_the_released_checkpoints_were_taught(llama_3):
    assert llama_3.tokenizer.decode(llama_3.tts_prompt("Hello there.", [5, 65_535])) == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
        "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n"
        "Convert the text to speech:<|TEXT_UNDERSTANDING_START|>Hello there.<|TEXT_UNDERSTANDING_END|><|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n<|SPEECH_GENERATION_START|><|s_5|><|s_65535|>"
    )


def test_prompt_does_not_change_with_the_day(llama_3):
    today = cards_ids(llama_3.tokenizer, "Hello.", [])
    assert llama_3.tts_prompt("Hello.") != today  # unpinned, the template writes another date in
    assert llama_3.tokenizer.decode(today).count("Today Date: ") == 1


def test_ids_are_those_of_the_released_checkpoints(llama_3):
    ids = llama_3.tokenizer.convert_tokens_to_ids
    assert [ids(marker) for marker in CARD_MARKERS] == list(range(128_256, 128_264))
    assert list(tokens.MARKERS) == CARD_MARKERS
    assert (llama_3.code_offset, llama_3.codebook_size, len(llama_3.tokenizer)) == (128_264, 65_536, 193_800)
    assert (llama_3.speech_end, llama_3.text_end, llama_3.pad) == (128_261, 128_257, 128_009)
    assert ids(["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>"]) == [128_000, 128_006, 128_007]


def test_real_tokenizer_splits_words_as_llama_3_does(llama_3):
    tiktoken_ids = pytest.importorskip("llama_models.llama3.tokenizer").Tokenizer.get_instance().encode
    for sentence in SENTENCES:
        assert llama_3.text_to_ids(sentence) == tiktoken_ids(sentence, bos=False, eos=False)


def test_finetuned_speaker_opens_the_assistants_turn(llama_3):
    plain, named = llama_3.tts_prompt("Hello."), llama_3.tts_prompt("Hello.", speaker="kore")
    assert named == plain[:-1] + llama_3.text_to_ids("Speaker kore") + plain[-1:]


def test_codes_in_a_recognition_prompt_equal_their_written_form(protocol):
    codes = [0, 17, protocol.codebook_size - 1]
    written = "".join(f"<|s_{code}|>" for code in codes)
    user = f"Convert the speech to text:<|SPEECH_UNDERSTANDING_START|>{written}<|SPEECH_UNDERSTANDING_END|>"
    chat = [{"role": "user", "content": user}, {"role": "assistant", "content": "<|TEXT_GENERATION_START|>"}]
    wanted = protocol.tokenizer.apply_chat_template(
        chat, tokenize=True, continue_final_message=True, return_dict=True, date_string=tokens.DATE_STRING
    )
    assert protocol.asr_prompt(codes) == wanted["input_ids"]


def test_prompt_ends_where_speech_begins(protocol):
    prompt = protocol.tts_prompt("hello there.")
    assert protocol.tokenizer.convert_ids_to_tokens(prompt[-1]) == "<|SPEECH_GENERATION_START|>"
    assert protocol.tts_prompt("hello there.", [3, 4]) == prompt + protocol.codes_to_ids([3, 4])
    assert protocol.tts_prompt("  hello there.\n") == prompt


def test_unconditional_prompt_lacks_only_the_words_to_come(protocol):
    told = protocol.tts_prompt("hello there.", [3, 4])
    assert protocol.unconditional_prompt("hello there.", [3, 4]) == told
    written = protocol.tokenizer.decode(told).replace("hello there.", "")
    assert protocol.tokenizer.decode(protocol.unconditional_prompt(codes=[3, 4])) == written
    with pytest.raises(ValueError, match="reads as a command"):
        protocol.unconditional_prompt("<|s_0|>")


@pytest.mark.parametrize("marker", [*CARD_MARKERS, "<|s_0|>", "<|eot_id|>", "<|begin_of_text|>"])
def test_text_that_holds_a_protocol_token_is_refused(protocol, marker):
    with pytest.raises(ValueError, match="reads as a command"):
        protocol.tts_prompt(f"hello {marker} there")
    with pytest.raises(ValueError, match="reads as a command"):
        protocol.asr_example(f"hello{marker}", [1, 2])


def test_speaker_that_holds_a_protocol_token_is_refused(protocol):
    with pytest.raises(ValueError):
        protocol.tts_prompt("hello", speaker="kore<|eot_id|>")


def test_text_that_only_looks_like_a_token_is_text(protocol):
    added = set(protocol.tokenizer.get_added_vocab().values()) - {protocol.tokenizer.unk_token_id}

    def commands(text):
        return [i for i in protocol.tts_prompt(text) if i in added]

    assert commands("a <|wink|> and a < b | c > d") == commands("a")


@pytest.mark.parametrize("blank", ["", "   ", "\n\t"])
def test_blank_text_is_refused(protocol, blank):
    with pytest.raises(ValueError, match="no text to speak"):
        protocol.tts_prompt(blank)


# -- training rows ---------------------------------------------------------------------------------------------------


def test_labels_cover_speech_only(protocol):
    codes = [1, 2, 3, protocol.codebook_size - 1]
    row = protocol.tts_example("hello there.", codes)
    answer = [*protocol.codes_to_ids(codes), protocol.speech_end]
    assert row.input_ids == protocol.tts_prompt("hello there.") + answer
    assert row.labels == [IGNORE] * (len(row.input_ids) - len(answer)) + answer


def test_labels_cover_text_only_for_recognition(protocol):
    row = protocol.asr_example("hello there.", [1, 2, 3])
    answer = [*protocol.text_to_ids("hello there."), protocol.text_end]
    assert row.input_ids == protocol.asr_prompt([1, 2, 3]) + answer
    assert row.labels == [IGNORE] * (len(row.input_ids) - len(answer)) + answer


# -- nano's tokenizer ------------------------------------------------------------------------------------------------


def test_characters_survive_the_round_trip(nano):
    text = tokens.CHARACTERS.strip()
    assert nano.protocol.ids_to_text(nano.protocol.text_to_ids(text)) == text
    assert (
        nano.protocol.ids_to_text(nano.protocol.text_to_ids("Él said: “Naïve – Café…”")) == 'el said: "naive - cafe..."'
    )


def test_an_unknown_character_costs_one_id_and_nothing_else(nano):
    ids = nano.protocol.text_to_ids("a🎈b")
    assert len(ids) == 3 and ids[::2] == nano.protocol.text_to_ids("ab")


def test_shipped_tokenizer_is_the_one_the_code_makes(nano):
    fresh = character_tokenizer(nano.codec.codebook_size)
    shipped = nano.protocol.tokenizer
    assert shipped.backend_tokenizer.to_str() == fresh.backend_tokenizer.to_str()
    assert shipped.special_tokens_map == fresh.special_tokens_map
    assert Protocol(fresh).tts_prompt("Hello there.", [1, 2]) == nano.protocol.tts_prompt("Hello there.", [1, 2])


def test_a_tokenizer_without_markers_is_no_llasa():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    plain = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?")))
    with pytest.raises(ValueError, match="not a Llasa checkpoint: its tokenizer lacks .*SPEECH_GENERATION_START"):
        Protocol(plain)


@pytest.mark.parametrize("more", [["<|s_9|>"], ["<|gap|>", "<|s_8|>"]])
def test_codes_that_are_not_one_run_of_ids_are_refused(more):
    """An offset alone could not tell their ids."""
    tokenizer = character_tokenizer(8)
    tokenizer.add_tokens(more)
    with pytest.raises(ValueError, match="speech tokens of this checkpoint are not one run of ids"):
        Protocol(tokenizer)
