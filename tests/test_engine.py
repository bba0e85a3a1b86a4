"""Laws of the engine on tiny random Llamas and on nano: it samples what the model says, row by row."""

import gc
import weakref

import numpy as np
import pytest
import torch
from conftest import LLAMA_3_ROPE

from llasa_lite.decoder import Decoder, Linear, Linear8, can_int8, can_pack, can_share
from llasa_lite.engine import END, LENGTH, REPETITION, RUNNING, SILENCE, Engine, Patience, Sampling
from llasa_lite.pipeline import Llasa
from llasa_lite.sampling import sample

PROMPT = [3, 50, 7, 7, 91, 20]
ANSWERS = {"speech": [60, *range(61, 100)], "text": [9, *range(10, 30)]}  # END first
FREE = Sampling(temperature=1.0, top_p=1.0)
GREEDY = Sampling(temperature=0.0)


@pytest.fixture(scope="module")
def llama(tiny_llama):
    return tiny_llama(100)


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "static"])
def engine(llama, request):
    """Both loops: what is computed row by row on a CPU, and the buffers that a GPU captures."""
    return Engine(llama, ANSWERS, static=request.param)


def spoken(engine, n=1, steps=20, **start):
    beams = engine.start(PROMPT, n, **start)
    beams.advance(steps)
    return beams


def generated(model, prompt, allowed, steps, **more):
    """Transformers' own greedy search over the same choices."""
    banned = sorted(set(range(model.config.vocab_size)) - {int(i) for i in allowed})
    ids = torch.tensor([prompt])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),  # without it, generate hides the pad token inside Llama 3's prompt
        do_sample=False,
        max_new_tokens=steps,
        suppress_tokens=banned,
        begin_suppress_tokens=[int(allowed[0])],
        eos_token_id=int(allowed[0]),
        pad_token_id=int(allowed[0]),
        **more,
    )
    return [i for i in out[0, len(prompt) :].tolist() if i != int(allowed[0])]


# -- what is sampled -------------------------------------------------------------------------------------------------


SHAPES = {
    "grouped heads, Llama 3 rope": dict(rope_parameters=LLAMA_3_ROPE),
    "one kv head": dict(num_key_value_heads=1),
    "as many kv heads as heads, tied head": dict(num_key_value_heads=4, tie_word_embeddings=True),
    "head_dim of its own": dict(head_dim=24, num_attention_heads=2, num_key_value_heads=1),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_greedy_equals_generate(tiny_llama, shape):
    for seed in range(3):
        model = tiny_llama(100, seed, **SHAPES[shape])
        beams = spoken(Engine(model, ANSWERS), steps=100, sampling=GREEDY, max_new=100)
        assert beams.ids[0] == generated(model, PROMPT, ANSWERS["speech"], 100)


def test_greedy_equals_generate_on_nano(nano):
    prompt = nano.protocol.tts_prompt("hello there.")
    beams = nano.engine.start(prompt, 1, "speech", GREEDY, max_new=60)
    beams.advance(60)
    assert beams.ids[0] == generated(nano.engine.model, prompt, nano.protocol.speech_ids(), 60)


# -- the likeliest answer --------------------------------------------------------------------------------------------


BY_SUM = dict(length_penalty=0.0, early_stopping=False)  # what ends counts by its probability, however long


@pytest.mark.parametrize("width", [1, 2, 5])
def test_the_likeliest_answer_is_what_transformers_beam_search_finds(tiny_llama, width):
    every_id = [9, *range(9), *range(10, 100)]  # `generate` weighs what it may not say too
    stopped = set()
    for seed in range(8):
        model = tiny_llama(100, seed)
        (found,) = Engine(model, {"any": every_id}).likeliest(PROMPT, width, "any", 24)
        more = dict(num_beams=width, **BY_SUM) if width > 1 else {}
        assert found.ids == generated(model, PROMPT, every_id, 24, **more)
        assert found.stopped == (END if len(found.log_probabilities) > len(found.ids) else LENGTH)
        stopped.add(found.stopped)
    assert stopped == {END, LENGTH}


def test_the_likeliest_transcript_is_no_less_likely_than_a_greedy_one(nano, voice):
    prompt = nano.protocol.asr_prompt(voice.codes["nano"])
    (greedy,) = nano.engine.likeliest(prompt, 1, "text", 100)
    plain = nano.engine.start(prompt, 1, "text", GREEDY, max_new=100)
    plain.advance(100)
    assert greedy.ids == plain.ids[0] and greedy.stopped == plain.stopped[0] == END
    np.testing.assert_allclose(greedy.log_probabilities, plain.log_probabilities[0], atol=1e-4)
    (wide,) = nano.engine.likeliest(prompt, 8, "text", 100)
    assert sum(wide.log_probabilities) >= sum(greedy.log_probabilities)
    assert wide.ids == generated(nano.engine.model, prompt, nano.protocol.text_ids(), 100, num_beams=8, **BY_SUM)


def test_answers_nearly_as_likely_come_too(nano, voice):
    prompt = nano.protocol.asr_prompt(voice.codes["nano"])
    (best,) = nano.engine.likeliest(prompt, 8, "text", 100)
    found = nano.engine.likeliest(prompt, 8, "text", 100, within=12.0)
    assert found[0].ids == best.ids and 1 < len(found) <= 8
    totals = [sum(one.log_probabilities) for one in found]
    assert totals == sorted(totals, reverse=True) and totals[-1] >= totals[0] - 12
    assert all(one.stopped == END for one in found) and len({tuple(one.ids) for one in found}) == len(found)


@pytest.mark.parametrize("bfloat16, within", [(False, 1e-3), (True, 0.1)])
def test_answers_weigh_what_the_beam_search_said_they_do(nano, voice, monkeypatch, bfloat16, within):
    monkeypatch.setattr("llasa_lite.engine.cpu_has_bf16", lambda: bfloat16)
    prompt, end = nano.protocol.asr_prompt(voice.codes["nano"]), nano.protocol.text_end
    found = nano.engine.likeliest(prompt, 8, "text", 100, within=12.0)
    answers = [[*one.ids, end] for one in found]  # of different lengths: padding must change nothing
    for one, logs in zip(found, nano.engine.weigh([prompt] * len(found), answers, "text")):
        np.testing.assert_allclose(logs, one.log_probabilities, atol=within)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_answers_are_weighed_in_every_dtype(tiny_llama, monkeypatch, dtype):
    """float16 too, on a processor that is quick at bfloat16: what a T4 made is replayed in it."""
    monkeypatch.setattr("llasa_lite.engine.cpu_has_bf16", lambda: True)
    answers = [ANSWERS["speech"][1:4], ANSWERS["speech"][2:9]]
    found = Engine(tiny_llama(100).to(dtype), ANSWERS).weigh([PROMPT] * 2, answers)
    for one, exact in zip(found, Engine(tiny_llama(100), ANSWERS).weigh([PROMPT] * 2, answers)):
        np.testing.assert_allclose(one, exact, atol=0.05)


def test_answers_weigh_the_same_in_any_company(llama, monkeypatch):
    """In several passes, over prompts and answers of other lengths."""
    monkeypatch.setattr("llasa_lite.engine.cpu_has_bf16", lambda: False)
    monkeypatch.setattr("llasa_lite.engine.WEIGHED_AT_ONCE", 3)
    engine, answers = Engine(llama, ANSWERS), [ANSWERS["speech"][-2 - k :] for k in range(4)]
    for prompts in (PROMPTS, [PROMPT] * 4):
        alone = [engine.weigh([prompt], [one])[0] for prompt, one in zip(prompts, answers)]
        for one, wanted in zip(engine.weigh(prompts, answers), alone, strict=True):
            np.testing.assert_allclose(one, wanted, atol=1e-4)


def test_an_answer_of_other_ids_is_not_weighed(nano, voice):
    prompt = nano.protocol.asr_prompt(voice.codes["nano"])
    with pytest.raises(ValueError, match="none of the choices of 'text'"):
        nano.engine.weigh([prompt], [[nano.protocol.speech_end]], "text")


@pytest.mark.parametrize("width, max_new", [(0, 5), (2, 0)])
def test_a_beam_of_nothing_is_refused(engine, width, max_new):
    with pytest.raises(ValueError, match=f"at least 1, not {width} and {max_new}"):
        engine.likeliest(PROMPT, width, "text", max_new)


def test_the_likeliest_answer_stays_within_the_context(engine):
    prompt = [3] * (engine.max_ids - 2)
    assert len(engine.likeliest(prompt, 3, "text", 50)[0].ids) <= 2
    with pytest.raises(ValueError, match="leaves no room"):
        engine.likeliest([3] * engine.max_ids, 3, "text", 50)


def test_released_vocabulary_speaks(llama_3, tiny_llama):
    """A random Llama of the released vocabulary, 193,800 ids, through protocol and engine."""
    model = tiny_llama(193_800, rope_parameters=LLAMA_3_ROPE, max_position_embeddings=512)
    allowed = llama_3.speech_ids()
    engine = Engine(model, {"speech": allowed, "text": llama_3.text_ids()})
    prompt = llama_3.tts_prompt("Hello there.", [17, 65_535])
    assert llama_3.pad in prompt
    beams = engine.start(prompt, 1, "speech", GREEDY, max_new=12)
    beams.advance(12)
    assert beams.ids[0] == generated(model, prompt, allowed, 12)
    beams = engine.start(prompt, 4, "speech", FREE, seed=1, max_new=10)
    beams.advance(100)
    for ids, stopped in zip(beams.ids, beams.stopped):
        assert 1 <= len(llama_3.ids_to_codes(ids)) <= 10  # raises where an id is no speech
        assert stopped == (LENGTH if len(ids) == 10 else END)
    assert LENGTH in beams.stopped


def test_log_probabilities_are_the_models_own(llama, engine):
    """Through prefill, single steps, select and fork: equal to one pass of Transformers over each whole row."""
    beams = spoken(engine, 3, 7, seed=4, sampling=FREE)
    beams.select([2, 0])
    beams.advance(5)
    beams.fork(2)
    beams.advance(6)
    allowed = torch.tensor(ANSWERS["speech"])
    for ids, logs, stopped in zip(beams.ids, beams.log_probabilities, beams.stopped):
        said = ids + [ANSWERS["speech"][0]] * (stopped == END)
        with torch.no_grad():
            logits = llama(torch.tensor([PROMPT + said])).logits[0, len(PROMPT) - 1 : -1, allowed]
        wanted = logits.log_softmax(-1)[torch.arange(len(said)), [ANSWERS["speech"].index(i) for i in said]]
        np.testing.assert_allclose(logs, wanted, atol=1e-4)


def test_only_allowed_ids_are_sampled(engine):
    for answer, allowed in ANSWERS.items():
        beams = spoken(engine, 16, 30, answer=answer, sampling=FREE)
        assert {i for ids in beams.ids for i in ids} <= set(allowed[1:])


def test_first_ids_follow_the_models_distribution(llama, engine):
    from scipy.stats import chisquare

    beams = engine.start(PROMPT, 5000, "text", FREE, seed=11, max_new=1)
    beams.advance(1)
    with torch.no_grad():
        logits = llama(torch.tensor([PROMPT])).logits[0, -1, ANSWERS["text"][1:]]
    wanted = torch.softmax(logits, -1).double().numpy() * 5000
    found = np.bincount([ids[0] for ids in beams.ids], minlength=30)[10:30]
    assert chisquare(found, wanted * 5000 / wanted.sum()).pvalue > 1e-3


# -- END and limits --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "static"])
def hasty(tiny_llama, request):
    """An engine that may say one thing or END: about every second draw is END."""
    return Engine(tiny_llama(100, initializer_range=0.05), {"speech": [60, 61]}, static=request.param)


def test_end_is_never_first_and_never_among_the_ids(hasty):
    beams = spoken(hasty, 200, 30, sampling=FREE)
    assert min(len(ids) for ids in beams.ids) == 1  # many would have ended at once
    assert all(60 not in ids for ids in beams.ids)


def test_a_row_that_ended_stays_as_it_is(hasty):
    beams = hasty.start(PROMPT, 50, "speech", FREE, seed=2)
    ended = {}
    for _ in range(12):
        new = beams.advance(1)
        for row, ids in ended.items():
            assert beams.ids[row] == ids and new[row] == []
        ended |= {row: list(beams.ids[row]) for row, stopped in enumerate(beams.stopped) if stopped == END}
    assert len(ended) > 25
    assert all(len(beams.log_probabilities[row]) == len(ids) + 1 for row, ids in ended.items())


def test_a_missing_end_is_reported(engine):
    beams = spoken(engine, 4, 1000, max_new=5, sampling=Sampling(temperature=1.0, top_k=1))
    for ids, stopped in zip(beams.ids, beams.stopped):
        assert (len(ids) == 5) == (stopped == LENGTH)
    assert beams.done


def test_stopped_rows_cost_no_more_time(hasty):
    beams = hasty.start(PROMPT, 50, "speech", FREE, seed=2)
    while not beams.done:
        beams.advance(1)
        running = beams.stopped.count(RUNNING)
        if hasty.stock is None:
            assert beams.cache.shape[2] == len(beams.lengths) == running
        elif running:
            assert running <= beams.slots.rows < 8 * running  # powers of two, a quarter full at least
    assert spoken(hasty, 50, 1000, seed=2, sampling=FREE).ids == beams.ids


def test_selected_and_forked_rows_may_have_stopped(hasty):
    beams = hasty.start(PROMPT, 20, "speech", FREE, seed=2)
    beams.advance(2)
    ended, running = beams.stopped.index(END), beams.stopped.index(RUNNING)
    past, going = list(beams.ids[ended]), list(beams.ids[running])
    beams.select([running, ended, ended, running])
    assert beams.ids == [going, past, past, going] and beams.stopped == [RUNNING, END, END, RUNNING]
    beams.fork(2)
    new = beams.advance(3)
    assert beams.ids[2:6] == [past] * 4 and new[2:6] == [[]] * 4
    assert all(new[row] or beams.stopped[row] == END for row in (0, 1, 6, 7))


def test_a_row_that_only_repeats_itself_is_stopped(tiny_llama):
    model = tiny_llama(100, 2, initializer_range=0.1)
    few = {"speech": range(60, 66)}  # greedy search among few ids goes round in circles
    patient = spoken(Engine(model, few), steps=200, sampling=GREEDY, max_new=200)
    assert patient.stopped == [LENGTH]
    stopped = spoken(Engine(model, few, patience=Patience(repetition_ids=30)), steps=200, sampling=GREEDY)
    assert stopped.stopped == [REPETITION]
    length = len(stopped.ids[0])
    assert stopped.ids[0] == patient.ids[0][:length] and 30 < length < 100
    tail = stopped.ids[0][-30:]
    assert any(patient.ids[0][length - 30 :] == np.resize(tail[:p], 230 - length).tolist() for p in range(1, 26))


def test_a_row_of_silence_is_stopped(tiny_llama):
    model = tiny_llama(100, initializer_range=0.05)  # next to even choices: half of the ids are silence
    silent = frozenset(range(61, 81))
    engine = Engine(model, ANSWERS, patience=Patience(silence_ids=5, silent=silent))
    beams = spoken(engine, 20, 150, sampling=FREE)
    assert beams.stopped.count(SILENCE) > 5
    for ids, stopped in zip(beams.ids, beams.stopped):
        quiet = [all(i in silent for i in ids[k : k + 5]) for k in range(len(ids) - 4)]
        assert quiet.count(True) == (stopped == SILENCE) and True not in quiet[:-1]


@pytest.mark.parametrize("period", [1, 2, 7, 25])
def test_patience_knows_a_loop_from_a_likeness(period):
    patience = Patience(repetition_ids=40)
    loop = np.resize(np.arange(period), 80).tolist()
    assert patience.ended(loop) == REPETITION
    assert patience.ended([*loop[:-1], 99]) is None
    assert patience.ended([*range(100, 140), *loop[: 24 + period // 2]]) is None  # not yet long enough
    assert patience.ended(list(range(80))) is None
    assert patience.ended(np.resize(np.arange(26), 80).tolist()) is None  # a melody, not a stutter
    assert Patience().ended(loop) is None


def test_impatience_below_0_is_refused():
    with pytest.raises(ValueError, match="Patience must be 0"):
        Patience(silence_ids=-1)


def test_answer_never_leaves_the_context(engine):
    prompt = [5] * (engine.max_ids - 7)
    beams = engine.start(prompt, 2, "speech", GREEDY, max_new=1000)
    beams.advance(1000)
    assert beams.done and max(len(ids) for ids in beams.ids) <= 7


def test_advance_returns_what_is_new(engine):
    beams = engine.start(PROMPT, 3, "speech", FREE, seed=3)
    parts = [beams.advance(4), beams.advance(1), beams.advance(9)]
    assert [sum(row, []) for row in zip(*parts)] == beams.ids


# -- seeds and rows --------------------------------------------------------------------------------------------------


def test_same_seed_same_ids(engine):
    assert spoken(engine, 4, seed=7).ids == spoken(engine, 4, seed=7).ids
    assert spoken(engine, 4, seed=7).ids != spoken(engine, 4, seed=8).ids


def test_steps_at_once_or_one_by_one_are_the_same(engine):
    beams = engine.start(PROMPT, 2, "speech", FREE, seed=5)
    for _ in range(20):
        beams.advance(1)
    assert beams.ids == spoken(engine, 2, 20, seed=5, sampling=FREE).ids


def test_row_k_does_not_depend_on_n(engine):
    alone, few, many = (spoken(engine, n, 20, seed=5, sampling=FREE) for n in (1, 3, 8))
    assert alone.ids == many.ids[:1] and few.ids == many.ids[:3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@torch.inference_mode()
def test_arithmetic_of_a_row_does_not_depend_on_its_neighbours(tiny_llama, dtype):
    if not can_pack("cpu", dtype):
        pytest.skip(f"weights of {dtype} cannot be packed on this machine, and plain products round by their size")
    shape = dict(hidden_size=256, intermediate_size=2048, num_attention_heads=8, head_dim=32)
    model = tiny_llama(2000, **shape, initializer_range=0.05).to(dtype)
    engine = Engine(model, {"speech": range(2000)})

    def logits(rows, n):
        beams = engine.start(PROMPT, n, sampling=FREE, seed=1)
        beams.advance(3)
        beams.select(rows)
        hidden = engine.decoder.decode(beams.said[:, 2], beams.cache, beams.lengths, beams.shared)
        return engine.heads["speech"](hidden)

    alone, sharing = logits([0], 1), logits([0], 4)
    for n in (2, 3):
        assert torch.equal(logits(range(n), n)[:1], alone)
    for n in (4, 8, 17, 40):  # rows that share their prompt's cache round differently from rows that do not
        assert torch.equal(logits(range(n), n)[:1], sharing)
    assert torch.equal(logits([4], 8), logits(range(8), 8)[4:5])
    if dtype == torch.float32:  # in bfloat16 the draws have parted by now
        torch.testing.assert_close(sharing, alone)


@pytest.mark.parametrize("n, guidance", [(4, 1.0), (4, 1.7), (9, 1.0), (9, 1.7)])
def test_rows_that_share_their_prompts_cache_say_what_rows_without_one_in_common_say(
    tiny_llama, monkeypatch, n, guidance
):
    assert can_share("cpu", torch.float32)
    engine = Engine(tiny_llama(100, num_attention_heads=4, num_key_value_heads=2), ANSWERS)

    def ids():
        sampling = Sampling(temperature=1.0, top_p=1.0, guidance=guidance)
        prompts, without = [PROMPT, PROMPT[::-1]], [PROMPT[:3], PROMPT[2:]]
        beams = engine.start_batch(prompts, sampling=sampling, max_new=[30, 44], n=n, unconditional=without)
        beams.advance(9)
        beams.select([2 * n - 1, 0, 3, 3, n, 1])
        beams.advance(7)
        beams.fork(2)
        beams.advance(50)
        return beams.ids, beams.stopped, engine.likeliest(PROMPT, n, "speech", 20)[0].ids

    sharing = ids()
    monkeypatch.setattr(Decoder, "shares", lambda *_: False)
    assert sharing == ids()


@pytest.mark.parametrize("shape", [(50, 64), (128, 2048), (2048, 256)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_products_are_those_of_plain_layers(shape, dtype):
    torch.manual_seed(0)
    weight, x = torch.randn(shape).to(dtype), torch.randn(20, shape[1]).to(dtype)
    linear = Linear(weight)
    for rows in (1, 2, 20):
        exact = x[:rows].double() @ weight.double().T
        error = (linear(x[:rows]).double() - exact).norm() / exact.norm()
        assert error < {torch.float32: 1e-6, torch.bfloat16: 4e-3}[dtype]


needs_int8 = pytest.mark.skipif(not can_int8("cpu"), reason="this processor or torch has no product in 8 bits")


@needs_int8
def test_products_in_8_bits_are_near_and_depend_on_their_row_alone():
    torch.manual_seed(0)
    weight, x = torch.randn(300, 512) * torch.rand(300, 1), torch.randn(20, 512) * 10 ** torch.randn(20, 1)
    product, exact = Linear8(weight)(x), x @ weight.T
    assert ((product - exact).norm(dim=1) / exact.norm(dim=1)).max() < 0.02
    for rows in (1, 2, 7):
        assert torch.equal(Linear8(weight)(x[:rows]), product[:rows])
    assert torch.equal(Linear8(weight)(torch.zeros(1, 512)), torch.zeros(1, 300))


@needs_int8
def test_in_8_bits_nano_says_nearly_the_same(nano):
    """Mean KL divergence of its next codes, measured at 0.005 nats; an ignorant model differs by whole nats."""
    ids = list(nano.engine.answers["speech"])
    prompt = nano.protocol.tts_prompt("hello there, this is nano.", range(50))
    engine = Engine(nano.engine.model, {"speech": ids}, int8=True)
    with torch.inference_mode():
        exact, near = (e.start(prompt).logits.log_softmax(-1) for e in (nano.engine, engine))
    assert 0 < (exact.exp() * (exact - near)).sum() < 0.1
    beams = engine.start(prompt, 3, sampling=FREE, max_new=12)
    beams.advance(12)
    assert len({tuple(i) for i in beams.ids}) == 3


@needs_int8
def test_int8_is_on_the_cpu_where_there_is_a_gpu_too(monkeypatch):
    """As for a receipt that was made without one."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    llasa = Llasa.from_pretrained(dtype="int8")
    assert {str(llasa.engine.device), str(llasa.codec.device)} == {"cpu"} and llasa.engine.dtype == "int8"


def test_8_bits_are_refused_where_they_would_overflow(llama, monkeypatch):
    monkeypatch.setattr("llasa_lite.engine.can_int8", lambda device: False)
    with pytest.raises(ValueError, match="int8 runs on processors with VNNI"):
        Engine(llama, ANSWERS, int8=True)


def test_without_packing_the_ids_are_the_same(llama, engine, monkeypatch):
    monkeypatch.setattr("llasa_lite.decoder.can_pack", lambda device, dtype: False)
    plain = Engine(llama, ANSWERS)
    assert not plain.heads["speech"].packed
    assert spoken(plain, 4, 30, seed=3, sampling=GREEDY).ids == spoken(engine, 4, 30, seed=3, sampling=GREEDY).ids


PROMPTS = [PROMPT, [5], [3, 4] * 20, [8, 60, 9]]


@pytest.mark.parametrize("static", [False, True])
def test_weights_that_nobody_uses_are_free_at_once(tiny_llama, static):
    """Another model may need their memory next: none waits for the garbage collector."""
    engine = Engine(tiny_llama(100), ANSWERS, static=static)
    beams = engine.start(PROMPT, 2, "speech", FREE, seed=1, max_new=10)
    beams.advance(5)
    weight = weakref.ref(engine.model.lm_head.weight)
    gc.collect(), gc.disable()
    try:
        del engine, beams
        assert weight() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("static", [False, True])
def test_weights_may_be_put_elsewhere_later(tiny_llama, monkeypatch, static):
    """As ZeroGPU does, which lends a GPU long after the engine was made."""
    monkeypatch.setattr("llasa_lite.decoder.can_pack", lambda device, dtype: False)
    engine = Engine(tiny_llama(100), ANSWERS, static=static)

    def said():
        beams = engine.start(PROMPT, 2, "speech", FREE, seed=1, max_new=10)
        beams.advance(10)
        return beams.ids

    before, decoder = said(), engine.decoder
    parts = [part for layer in decoder.layers for part in layer]
    for tensor in (decoder.cos, decoder.sin, *(getattr(part, "weight", part) for part in parts)):
        tensor.data = tensor.data.clone()
    assert said() == before


def test_rows_of_a_batch_say_what_they_say_alone(engine):
    seeds, limits = [5, 6, 5, 0], [30, 12, 40, 25]
    beams = engine.start_batch(PROMPTS, "speech", FREE, seeds, limits)
    parts = [beams.advance(7), beams.advance(100)]
    assert beams.done
    assert [sum(row, []) for row in zip(*parts)] == beams.ids
    for row, (prompt, seed, limit) in enumerate(zip(PROMPTS, seeds, limits)):
        alone = engine.start(prompt, 1, "speech", FREE, seed, limit)
        alone.advance(100)
        assert beams.ids[row] == alone.ids[0] and beams.stopped[row] == alone.stopped[0]
        np.testing.assert_allclose(beams.log_probabilities[row], alone.log_probabilities[0], atol=1e-4)
    assert len(set(map(len, beams.ids))) > 1


def test_rows_of_a_batch_can_be_selected_and_forked(engine):
    beams = engine.start_batch(PROMPTS, "speech", FREE, n=3)
    assert len(beams) == 12
    beams.advance(5)
    beams.select([10, 1, 6])
    beams.advance(4)
    beams.fork(2)
    beams.advance(6)
    for row, (prompt, k) in enumerate([(3, 1), (0, 1), (2, 0)]):
        alone = engine.start(PROMPTS[prompt], 3, "speech", FREE)
        alone.advance(15)
        assert beams.ids[2 * row] == alone.ids[k]


def test_a_batch_never_leaves_the_context(engine):
    room = [3, 200]
    prompts = [[5] * (engine.max_ids - r) for r in room]
    beams = engine.start_batch(prompts, "speech", Sampling(1.0, top_k=1), max_new=[1000, 1000])
    beams.advance(1000)
    assert [len(ids) for ids in beams.ids] == room or END in beams.stopped
    assert beams.stopped[0] == LENGTH


@pytest.mark.parametrize("bad", [dict(prompts=[]), dict(seeds=[1]), dict(max_new=[5, 5, 5])], ids=str)
def test_a_batch_of_uneven_lists_is_refused(engine, bad):
    with pytest.raises(ValueError, match="a seed and a limit for each"):
        engine.start_batch(**(dict(prompts=PROMPTS[:2]) | bad))


# -- guidance --------------------------------------------------------------------------------------------------------

WITHOUT = [PROMPT[:2], [6], [3], [9, 9, 9]]  # unconditional prompts of PROMPTS
GUIDED = Sampling(temperature=1.0, top_p=1.0, guidance=2.0)


@pytest.mark.parametrize("static", [False, True])
def test_guided_greedy_equals_generate(tiny_llama, static):
    changed = 0
    for seed in range(3):
        model = tiny_llama(100, seed)
        for guidance in (1.5, 4.0):
            how = Sampling(temperature=0.0, guidance=guidance)
            engine = Engine(model, ANSWERS, static=static)
            beams = engine.start(PROMPT, 1, sampling=how, max_new=60, unconditional=PROMPT[:2])
            beams.advance(60)
            without = dict(guidance_scale=guidance, negative_prompt_ids=torch.tensor([PROMPT[:2]]))
            assert beams.ids[0] == generated(model, PROMPT, ANSWERS["speech"], 60, **without)
            changed += beams.ids[0] != generated(model, PROMPT, ANSWERS["speech"], 60)
    assert changed >= 4


def test_guided_rows_of_a_batch_say_what_they_say_alone(engine):
    """Through stops, select and fork: a row keeps the partner of its own prompt."""
    seeds, limits = [5, 6, 5, 0], [30, 12, 40, 25]
    beams = engine.start_batch(PROMPTS, "speech", GUIDED, seeds, limits, n=2, unconditional=WITHOUT)
    beams.advance(4)
    beams.select([6, 1, 2, 4])
    beams.advance(3)
    beams.fork(2)
    beams.advance(100)
    assert beams.done
    for row, (prompt, k) in enumerate([(3, 0), (0, 1), (1, 0), (2, 0)]):
        more = GUIDED, seeds[prompt], limits[prompt], WITHOUT[prompt]
        alone = engine.start(PROMPTS[prompt], 2, "speech", *more)
        alone.advance(100)
        assert beams.ids[2 * row] == alone.ids[k] and beams.stopped[2 * row] == alone.stopped[k]
    assert len(set(map(len, beams.ids))) > 1


def test_guided_log_probabilities_are_the_models_own(llama, engine):
    beams = engine.start(PROMPT, 2, sampling=GUIDED, seed=4, unconditional=[3])
    beams.advance(10)
    allowed = torch.tensor(ANSWERS["speech"])
    with torch.no_grad():
        logits = llama(torch.tensor([PROMPT + beams.ids[0]])).logits[0, len(PROMPT) - 1 : -1, allowed]
    said = [ANSWERS["speech"].index(i) for i in beams.ids[0]]
    wanted = logits.log_softmax(-1)[torch.arange(len(said)), said]
    np.testing.assert_allclose(beams.log_probabilities[0][: len(said)], wanted, atol=1e-4)


@pytest.mark.parametrize("static", [False, True])
def test_a_partner_out_of_range_is_told(tiny_llama, static):
    """Its numbers choose the ids as much as the row's own."""
    model = tiny_llama(100)
    model.model.embed_tokens.weight.data[59] = torch.inf
    beams = Engine(model, ANSWERS, static=static).start(PROMPT, 2, sampling=GUIDED, unconditional=[3, 59, 2])
    with pytest.raises(ValueError, match="left the range"):
        beams.advance(5)


def test_guidance_needs_an_unconditional_prompt(engine):
    with pytest.raises(ValueError, match="give that, or guidance 1"):
        engine.start(PROMPT, sampling=GUIDED)
    with pytest.raises(ValueError, match="give that, or guidance 1"):
        engine.start_batch(PROMPTS, sampling=GUIDED, unconditional=WITHOUT[:2])


def test_rows_differ(engine):
    assert len({tuple(ids) for ids in spoken(engine, 8, 20, sampling=FREE).ids}) == 8


def test_selected_rows_go_on_as_if_nothing_happened(engine):
    whole = spoken(engine, 5, 25, seed=6, sampling=FREE)
    beams = spoken(engine, 5, 10, seed=6, sampling=FREE)
    beams.select([4, 1])
    beams.advance(15)
    assert beams.ids == [whole.ids[4], whole.ids[1]]
    assert beams.stopped == [whole.stopped[4], whole.stopped[1]]


def test_forked_rows_share_their_past_and_part(engine):
    beams = spoken(engine, 2, 6, seed=9, sampling=Sampling(temperature=2.0, top_p=1.0))
    past = [list(ids) for ids in beams.ids]
    assert beams.stopped == [RUNNING] * 2
    beams.fork(4)
    assert beams.ids == [past[0]] * 4 + [past[1]] * 4
    beams.advance(15)
    assert [ids[:6] for ids in beams.ids] == [past[0]] * 4 + [past[1]] * 4
    assert len({tuple(ids) for ids in beams.ids}) == 8


def test_a_forks_first_row_is_the_row_itself(engine):
    whole = spoken(engine, 2, 20, seed=6, sampling=FREE)
    beams = spoken(engine, 2, 8, seed=6, sampling=FREE)
    beams.fork(3)
    beams.advance(12)
    assert [beams.ids[0], beams.ids[3]] == whole.ids


def test_search_repeats_with_its_seed(engine):
    def search():
        beams = spoken(engine, 4, 5, seed=1, sampling=FREE)
        for rows in ([3, 3, 0], [1, 1, 2, 2]):
            beams.select(rows)
            beams.advance(5)
        return beams.ids

    assert search() == search()


# -- sampling --------------------------------------------------------------------------------------------------------

LOGITS = torch.tensor([2.0, -1.0, 0.5, 1.5, -3.0, 0.0, 1.0, -0.5])


def fresh(seed):
    """Random numbers as `sample` asks for them."""
    random = np.random.default_rng(seed)
    return lambda rows: random.random(len(rows))


def nucleus(p, top_p):
    order = np.argsort(-p)
    inside = np.cumsum(p[order]) - p[order] < top_p
    kept = np.zeros_like(p)
    kept[order[inside]] = p[order[inside]]
    return kept / kept.sum()


def softmax(logits):
    return torch.softmax(logits.double(), -1).numpy()


EXPECTED = {
    "as it is": (FREE, softmax(LOGITS)),
    "cold": (Sampling(0.5, 1.0), softmax(LOGITS / 0.5)),
    "top_p": (Sampling(1.0, 0.7), nucleus(softmax(LOGITS), 0.7)),
    "top_k": (Sampling(1.0, 1.0, top_k=3), softmax(LOGITS.where(LOGITS >= 1.0, -torch.inf))),
    "top_k, then top_p": (Sampling(1.0, 0.6, 3), nucleus(softmax(LOGITS.where(LOGITS >= 1.0, -torch.inf)), 0.6)),
}


@pytest.mark.parametrize("case", EXPECTED)
def test_sampling_follows_its_distribution(case):
    from scipy.stats import chisquare

    how, wanted = EXPECTED[case]
    found = np.bincount(sample(LOGITS.expand(20_000, -1), how, fresh(0)), minlength=len(LOGITS))
    assert found[wanted == 0].sum() == 0
    inside = wanted > 0
    assert chisquare(found[inside], wanted[inside] * 20_000).pvalue > 1e-3


def test_temperature_0_is_the_likeliest(engine):
    assert set(sample(LOGITS.expand(50, -1), GREEDY, fresh(0)).tolist()) == {0}


def test_repetition_penalty_divides_positive_and_multiplies_negative_logits():
    how = Sampling(1.0, 1.0, repetition_penalty=2.0)
    said = torch.tensor([0, 1, 1])
    wanted = softmax(torch.tensor([1.0, -2.0, 0.5, 1.5, -3.0, 0.0, 1.0, -0.5]))
    comb = (np.arange(20_000) + 0.5) / 20_000  # an even one: shares are exact to 1/20,000
    picked = sample(LOGITS.expand(20_000, -1), how, lambda rows: comb[rows], said.expand(20_000, -1))
    found = np.bincount(picked, minlength=8)
    np.testing.assert_allclose(found / 20_000, wanted, atol=2e-4)


def test_repetition_penalty_knows_what_each_row_said(engine):
    def repeats(penalty):
        beams = spoken(engine, 8, 30, seed=2, sampling=Sampling(0.7, 1.0, repetition_penalty=penalty))
        return sum(len(ids) - len(set(ids)) for ids in beams.ids) / sum(len(ids) for ids in beams.ids)

    assert repeats(5.0) < 0.5 * repeats(1.0)


def test_a_wide_nucleus_is_kept_whole():
    """5,000 choices that are all but equal: the likelier 95 % are drawn evenly, the others never."""
    flat = -torch.linspace(0, 1e-3, 5000)
    picked = sample(flat.expand(1_000, -1), Sampling(1.0, 0.95), fresh(1)).numpy()
    assert 0.94 * 5000 < picked.max() < 0.951 * 5000
    assert picked.mean() == pytest.approx(0.95 * 5000 / 2, rel=0.05)


def test_rows_that_missed_the_nucleus_draw_again_and_no_others_do():
    asked = []

    def draw(rows):
        asked.append(rows)
        return [0.999] * len(rows) if len(asked) < 3 else [0.0] * len(rows)

    how = Sampling(1.0, 0.3)  # holds the first choice alone
    logits = torch.stack([LOGITS, torch.tensor([9.0] + [-9.0] * 7), LOGITS])
    assert sample(logits, how, draw).tolist() == [0, 0, 0]
    assert asked[:2] == [[0, 1, 2], [0, 2]]


@pytest.mark.parametrize("how", [FREE, Sampling(1.0, 0.5), Sampling(1.0, 1.0, top_k=2)], ids=["free", "top_p", "top_k"])
def test_no_draw_picks_what_has_no_probability(how):
    logits = torch.tensor([[-torch.inf, 0.0, 1.0, 2.0, -torch.inf]])
    allowed = {3} if how.top_p == 0.5 else {2, 3} if how.top_k else {1, 2, 3}
    for first in (0.0, 1e-12, 0.5, 1 - 1e-7, 1 - 2**-53):  # the ends of [0, 1) in double precision
        for again in (0.0, 1 - 2**-53):
            draws = iter([[first], *[[again]] * 9])
            assert sample(logits, how, lambda rows, draws=draws: next(draws)).item() in allowed


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, -3])
def test_no_rows_is_refused(engine, n):
    with pytest.raises(ValueError, match=f"n must be at least 1, not {n}"):
        engine.start(PROMPT, n)
    with pytest.raises(ValueError, match="fork needs n of at least 1"):
        spoken(engine).fork(n)


def test_an_empty_prompt_is_refused(engine):
    with pytest.raises(ValueError, match="prompt is empty"):
        engine.start([])


def test_a_prompt_without_room_for_an_answer_is_refused(engine):
    with pytest.raises(ValueError, match="256 of the model's 256 ids and leaves no room"):
        engine.start([5] * 256)
    beams = engine.start([5] * 255)
    beams.advance(9)
    assert len(beams.ids[0]) == 1


@pytest.mark.parametrize("rows", [[], [4], [-1], [0, 9]])
def test_rows_that_are_not_there_cannot_be_selected(engine, rows):
    with pytest.raises(ValueError, match=r"rows in 0\.\.3"):
        spoken(engine, 4).select(rows)


@pytest.mark.parametrize(
    "bad",
    [
        dict(temperature=-0.1),
        dict(temperature=2.1),
        dict(temperature=float("nan")),
        dict(guidance=0.5),
        dict(guidance=float("nan")),
        dict(top_p=0.0),
        dict(top_p=1.1),
        dict(top_k=-1),
        dict(repetition_penalty=0.9),
    ],
    ids=str,
)
def test_sampling_out_of_range_is_refused(bad):
    (name,) = bad
    with pytest.raises(ValueError, match=f"^{name} must .*not"):
        Sampling(**bad)


def test_biases_are_refused(tiny_llama):
    with pytest.raises(ValueError, match="biases"):
        Engine(tiny_llama(100, attention_bias=True), ANSWERS)
