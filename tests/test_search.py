"""Laws of search: what is kept and what chooses, on a tiny engine with plain scores; then on nano as users call it."""

import csv
import gc
import json
import weakref
from functools import partial

import numpy as np
import pytest

from llasa_lite import Candidate, Extended, Finished, Llasa, Pruned, Sampling, Scored, SearchSettings
from llasa_lite.search import ChunkSearch, Task
from llasa_lite.verifiers import Criterion, Target, Verifier, verifier

PLAIN = Sampling(temperature=1, top_p=1)
CODES = 12  # of the tiny engine, after END
STEP = 4


class Loud(Verifier):
    """Likes high codes: the mean of the wave, which is 0.01 + code / 100 all along."""

    name, source, unit, low, high = "loud", "mean", "amplitude", 0.0, 1.0
    calls = 0  # waves it was given

    def _load(self):
        pass

    def _score(self, waves, target, codes):
        self.calls += len(waves)
        return [wav.mean() for wav in waves]


@pytest.fixture
def hunt(tiny_llama):
    """Makes a `ChunkSearch` over a tiny random Llama: `hunt(method, n=..., limit=..., silent=..., **settings)`."""
    from llasa_lite.engine import Engine

    engine = Engine(tiny_llama(CODES + 2), {"speech": range(CODES + 1)})

    def make(method, seed=0, limit=40, sampling=PLAIN, silent=(), stop=lambda: False, loud=None, **more):
        def decode(batch, whole):
            make.decoded.append(whole)
            amplitude = [0.01 + codes / 100 for codes in batch]
            return [np.repeat(a, 10) * (tuple(c) not in silent) for a, c in zip(amplitude, batch)]

        def start(n):
            make.starts.append(n)
            return engine.start([CODES + 1], n, "speech", sampling, seed, limit)

        task = Task(
            start,
            lambda ids: np.asarray(ids, np.int64) - 1,
            decode,
            Target("text"),
        )
        settings = SearchSettings(method, step_tokens=STEP, **more)
        criterion = Criterion((loud or Loud(),))
        guided = criterion if settings.guided_tokens else None
        return ChunkSearch(task, settings, guided, None if method == "sample" else criterion, stop)

    make.engine, make.starts, make.decoded = engine, [], []
    return make


def run(search):
    """Its events, by kind."""
    events = list(search.events())
    assert isinstance(events[-1], Finished) and [e.seconds for e in events] == sorted(e.seconds for e in events)
    kinds = {kind: [e for e in events if type(e) is kind] for kind in (Extended, Scored, Pruned)}
    return events[-1], kinds


def said(candidates):
    return [tuple(c.codes) for c in candidates]


# -- what is kept ----------------------------------------------------------------------------------------------------


def test_the_best_has_the_highest_score_and_every_candidate_is_told_once(hunt):
    end, kinds = run(hunt("best_of_n", n=9, score_batch=2))
    assert end.best.score == max(c.score for c in end.candidates if c.stopped == "end")
    assert sorted(c.index for c in end.candidates) == list(range(9))
    assert sorted(c.index for event in kinds[Scored] for c in event.candidates) == list(range(9))
    assert all(event.running + event.ended == 9 for event in kinds[Extended])
    assert all(c.score == pytest.approx(np.mean(0.01 + c.codes / 100)) for c in end.candidates)


def test_those_that_ended_are_scored_as_they_come_a_few_at_a_time(hunt):
    ended = told = 0
    for event in hunt("best_of_n", n=9, score_batch=2).events():
        if isinstance(event, Extended):
            assert ended - told < 2  # none waits for another step once there are two
            ended = event.ended
        elif isinstance(event, Scored):
            told += len(event.candidates)
            assert len(event.candidates) <= 2
    assert ended == told == 9


def test_candidates_of_best_of_n_are_what_plain_sampling_gives(hunt):
    """Those that ended leave the engine, and change nothing for those that go on."""
    plain = hunt.engine.start([CODES + 1], 9, "speech", PLAIN, 3, 40)
    plain.advance(40)
    end, _ = run(hunt("best_of_n", seed=3, n=9, continuations=2))  # of a guided beginning alone
    found = {c.index: (*c.codes + 1, c.stopped) for c in end.candidates}
    assert found == {k: (*ids, how) for k, (ids, how) in enumerate(zip(plain.ids, plain.stopped))}


@pytest.mark.parametrize("method", ["sample", "best_of_n", "beam_search", "partial_prm"])
def test_same_seed_same_result(hunt, method):
    one, again, other = (run(hunt(method, seed, n=5, process_seconds=0.2))[0].candidates for seed in (1, 1, 2))
    assert said(one) == said(again) != said(other)
    assert [c.scores for c in one] == [c.scores for c in again]


def test_every_step_keeps_the_n_best_beams(hunt):
    _, kinds = run(hunt("beam_search", n=3, branch=4, limit=20))
    assert len(kinds[Pruned]) >= 3
    for scored, pruned in zip([e for e in kinds[Scored] if e.stage == "process"], kinds[Pruned]):
        going = [c.score for c in scored.candidates if c.stopped != "length"]
        assert going == sorted(going, reverse=True)
        cut_off = [c.stopped == "length" for c in scored.candidates]
        assert cut_off == sorted(cut_off)
        assert said(pruned.kept) == said(scored.candidates[:3])
        assert len(scored.candidates) == len(pruned.kept) + pruned.dropped


def test_beams_grow_out_of_those_that_were_kept(hunt):
    _, kinds = run(hunt("beam_search", n=3, branch=4, limit=20))
    steps = [e.candidates for e in kinds[Scored] if e.stage == "process"]
    for before, after in zip(kinds[Pruned], steps[1:]):
        roots = said(before.kept)
        assert all(any(codes[: len(root)] == root for root in roots) for codes in said(after))


def test_the_process_verifier_gets_what_it_likes(hunt):
    plain = [c.score for c in run(hunt("best_of_n", n=32, limit=20))[0].candidates]
    for method in ("beam_search", "partial_prm"):
        guided = [c.score for c in run(hunt(method, n=8, limit=20, process_seconds=0.2))[0].candidates]
        assert np.mean(guided) > np.mean(plain) + np.std(plain) / 2
        assert method == "partial_prm" or max(guided) > max(plain)


def test_partial_prm_guides_the_beginning_and_samples_the_rest(hunt):
    end, kinds = run(hunt("partial_prm", n=4, branch=3, process_seconds=0.2, continuations=2))  # 10 tokens: 4, 4, 2
    stages = [(e.stage, e.tokens) for e in kinds[Extended]]
    assert [tokens for stage, tokens in stages if stage == "process"] == [4, 8, 10]
    assert stages[3] == ("outcome", 14)
    assert hunt.decoded[:3] == [False] * 3 and all(hunt.decoded[3:])
    kept = kinds[Pruned][-1].kept
    running = sum(c.stopped == "running" for c in kept)
    assert len(end.candidates) == len(kept) + running  # two continuations of each that still ran
    assert all(any(codes[: len(root)] == root for root in said(kept)) for codes in said(end.candidates))
    assert len(set(said(end.candidates))) > len(kept)  # and they differ


def test_prm_of_less_than_a_token_guides_the_first(hunt):
    _, kinds = run(hunt("partial_prm", n=3, branch=2, process_seconds=0.004))
    assert [e.tokens for e in kinds[Extended] if e.stage == "process"] == [1] and len(kinds[Pruned]) == 1


def test_those_that_ended_are_counted_in_the_step_they_ended_in(hunt):
    _, kinds = run(hunt("beam_search", n=6, branch=3, seed=2, limit=30))
    steps = [[e for e in kinds[kind] if e.stage == "process"] for kind in (Extended, Scored)]
    for extended, scored in zip(*steps):
        assert extended.ended == sum(c.stopped != "running" for c in scored.candidates)
        assert extended.running + extended.ended == len(scored.candidates)


def test_the_prompt_is_read_once(hunt):
    run(hunt("partial_prm", n=4, branch=3, process_seconds=0.2))
    run(hunt("best_of_n", n=5))
    assert hunt.starts == [12, 5]  # once for all rows of a search; after that beams are only selected


# -- what goes wrong -------------------------------------------------------------------------------------------------


def test_duplicated_beams_are_one_beam_and_heard_once(hunt):
    greedy, loud = Sampling(temperature=0), Loud()
    end, kinds = run(hunt("beam_search", n=4, branch=4, limit=8, sampling=greedy, loud=loud))
    assert kinds[Pruned][0].duplicates == 15 and len(kinds[Pruned][0].kept) == 1 == len(end.candidates)
    assert loud.calls == len(kinds[Pruned]) + 1  # and once as a whole
    loud = Loud()
    end, _ = run(hunt("best_of_n", n=6, limit=8, sampling=greedy, loud=loud))
    assert len(end.candidates) == 6 and len(set(said(end.candidates))) == 1 == loud.calls
    assert end.best.index == 0  # of equals, the first


def test_beams_that_ended_early_stay_as_they_are(hunt):
    """They are not multiplied, not extended, and not scored again while others go on."""
    seen = {}
    _, kinds = run(hunt("beam_search", n=6, branch=3, seed=2, limit=30))
    ended_early = False
    for event in kinds[Scored]:
        if event.stage == "process":
            assert len(set(zip(said(event.candidates), (c.stopped for c in event.candidates)))) == len(event.candidates)
            longest = max(len(c.codes) for c in event.candidates)
            for c in event.candidates:
                if c.stopped == "end":
                    ended_early |= len(c.codes) < longest - STEP
                    assert seen.setdefault(tuple(c.codes), c.score) == c.score
    assert ended_early


def test_speech_that_ran_into_its_limit_comes_last_whatever_its_score(hunt):
    end, _ = run(hunt("best_of_n", n=24, limit=6))
    kinds = [c.stopped for c in end.candidates]
    closed = kinds.count("end")
    assert 0 < closed < 24 and kinds == ["end"] * closed + ["length"] * (24 - closed)
    assert max(c.score for c in end.candidates) > end.best.score  # one of those would have won


def test_all_ran_into_the_limit(hunt):
    end, _ = run(hunt("partial_prm", n=3, branch=2, limit=2))
    assert {c.stopped for c in end.candidates} <= {"length", "end"} and end.best.score > 0


def test_silence_gets_the_lowest_score_and_never_reaches_the_model(hunt):
    first = run(hunt("best_of_n", n=6))[0].candidates
    loud = Loud()
    end, _ = run(hunt("best_of_n", n=6, silent={tuple(first[0].codes)}, loud=loud))
    assert loud.calls == 5 and end.best.index == first[1].index
    assert [c.score for c in end.candidates if c.index == first[0].index] == [0.0]


# -- stopping --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["best_of_n", "beam_search", "partial_prm"])
def test_stop_keeps_the_best_so_far(hunt, method):
    """After every event there is a best one, and closing there leaves it."""
    few = dict(n=4, branch=2, score_batch=1, limit=16)
    total = len(list(hunt(method, **few).events()))
    for stop_after in range(1, total):
        search = hunt(method, **few)
        events = search.events()
        seen = [next(events) for _ in range(stop_after)]
        events.close()
        best = search.candidates()[0]
        whole = [c for e in seen if isinstance(e, Scored) and e.stage == "outcome" for c in e.candidates]
        if whole:
            assert best.score == max(whole, key=lambda c: c.rank).score
        elif isinstance(seen[-1], Pruned):
            assert best.score == max((c.stopped == "end", c.score) for c in seen[-1].kept)[1]
        assert len(best.codes) > 0 and len(best.wav) == 10 * len(best.codes)


def test_a_stop_that_says_yes_ends_it_within_a_step(hunt):
    answers = iter([False, False, True])
    search = hunt("best_of_n", n=8, limit=40, stop=lambda: next(answers))  # asked no more once it said yes
    end, kinds = run(search)
    assert end.stopped_early and len(kinds[Extended]) == 2 and end.best.codes.size
    assert not run(hunt("best_of_n", n=8))[0].stopped_early
    end, _ = run(hunt("best_of_n", n=3, stop=lambda: True))
    assert end.stopped_early and end.candidates == ()


# -- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked, sentence",
    [
        (dict(n=0), "n must be a whole number of at least 1, not 0."),
        (dict(branch=0), "branch must be a whole number of at least 1, not 0."),
        (
            dict(method="best"),
            "Unknown search method 'best'. Choose from: sample, best_of_n, beam_search, ",
        ),
        (dict(process_seconds=0), "process_seconds must be above 0, not 0; without PRM: best_of_n."),
        (dict(process_seconds=601), "process_seconds must be at most 600, not 601."),
        (dict(context_codes=-1), "context_codes must be a whole number of at least 0, not -1."),
        (dict(outcome="asr:somebody/nothing"), "Cannot load 'somebody/nothing'"),
        (dict(outcome="spk"), "Unknown verifier 'spk'. Choose from: asr, emotion, likelihood, quality, speaker."),
        (dict(process="speaker"), "'best_of_n' has no process verifier."),
        (dict(method="sample", outcome="asr"), "'sample' has no outcome verifier"),
        (dict(method="partial_prm", process="asr"), "The verifier 'asr' judges whole sentences"),
        (dict(n=100_000), "More than 4,096 candidates at once"),
        (dict(method="beam_search", n=64, branch=65), "More than 4,096 candidates at once"),
        (dict(outcome="emotion", voice=None), "The verifier 'emotion' compares with a voice: choose one."),
        (dict(reference="mine"), "reference must be 'prompt' or 'resynthesis', not 'mine'."),
        (dict(voice="nobody"), "Unknown voice 'nobody'."),
        (dict(text=" "), "There is no text to speak."),
    ],
)
def test_bad_input_is_refused_before_anything_is_sampled(nano, voice, monkeypatch, asked, sentence):
    monkeypatch.setattr(nano.engine, "start", None)
    with pytest.raises(ValueError) as refused:
        nano.search(**(dict(text="Oh.", voice=voice, seed=0) | asked))
    assert str(refused.value).startswith(sentence)


def test_only_rows_that_run_side_by_side_are_counted():
    """Branches and continuations follow one another; without PRM there are none."""
    assert SearchSettings("partial_prm", 64, 16, continuations=64).continuations == 64
    assert SearchSettings("best_of_n", 2048, continuations=4).n == 2048
    told = "More than 4,096 candidates at once are asked for. Make n, branch or continuations smaller."
    with pytest.raises(ValueError, match=told):
        SearchSettings("partial_prm", 64, continuations=65)


def test_every_method_has_the_verifiers_it_needs():
    def names(method, outcome=None):
        return [c and c.verifiers[0].name for c in SearchSettings(method).criteria(None, outcome)]

    assert names("sample") == [None, None] and names("best_of_n") == [None, "asr"]
    assert names("partial_prm") == ["speaker", "asr"] and names("beam_search") == ["speaker", "speaker"]
    assert names("beam_search", "asr") == ["speaker", "asr"]


def test_a_model_that_prunes_and_chooses_is_held_once():
    process, outcome = SearchSettings("partial_prm").criteria("speaker", "asr, speaker")
    assert process.verifiers[0] is outcome.verifiers[1]
    process, outcome = SearchSettings("partial_prm").criteria("speaker", "speaker:owner/other")
    assert process.verifiers[0] is not outcome.verifiers[0]


# -- as users call it ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found(nano, voice):
    return nano.search("Oh, yes.", voice, n=4, outcome="likelihood, asr", seed=5)


def test_the_model_chooses_by_its_own_ear_unless_told_otherwise(nano, voice):
    assert nano.search("Oh.", voice, n=2, seed=1).verifiers["outcome"]["verifiers"][0]["name"] == "likelihood"
    assert SearchSettings().criteria(None, None)[1].verifiers[0].name == "asr"  # nobody here can listen


def test_best_of_1_equals_tts(nano, voice):
    found = nano.search("Oh, yes.", voice, n=1, outcome="likelihood", seed=5)
    np.testing.assert_array_equal(found.best.wav, nano.tts("Oh, yes.", voice, seed=5).wav)
    assert found.best.seed == 5 and not found.stopped_early


def test_the_result_says_how_it_was_found(found):
    told = json.loads(json.dumps(found.to_dict()))
    assert told["settings"]["n"] == 4 and told["verifiers"]["process"] is None
    assert [v["source"] for v in told["verifiers"]["outcome"]["verifiers"]] == ["own", "own"]
    assert told["verifiers"]["outcome"]["order"] == "first decides" and told["reference"] == "prompt"
    assert len(told["candidates"]) == 4 and set(told["candidates"][0]["scores"]) == {"likelihood", "asr"}
    for row, candidate in zip(told["candidates"], found.candidates):
        assert (row["chunk"], row["index"], row["stopped"]) == (0, candidate.index, candidate.stopped)
        assert row["seconds"] == len(candidate.codes) / 50
    assert 0 < sum(found.spent.values()) <= found.seconds + 0.1
    np.testing.assert_array_equal(found.best.wav, found.speeches[0].wav)


def test_every_candidate_is_saved_and_replayed_from_its_receipt(nano, found, monkeypatch, tmp_path):
    """No verifier and no search is needed for it."""
    monkeypatch.setattr(Llasa, "from_pretrained", classmethod(lambda cls, *a, **k: nano))
    paths = found.save_all(tmp_path / "all")
    assert [path.name for path in paths] == [f"00-{c.index:03d}.wav" for c in found.candidates]
    for path, candidate, speech in zip(paths, found.candidates, found.speeches):
        receipt = json.loads(path.with_suffix(".receipt.json").read_text())
        assert receipt["search"]["chosen"][0]["index"] == candidate.index
        again = Llasa.replay(receipt)
        np.testing.assert_allclose(again.wav, speech.wav, atol=1e-5)
        assert again.complete == speech.complete == (candidate.stopped == "end")


@pytest.mark.parametrize("with_voice", [True, False])
def test_long_text_is_searched_piece_by_piece_in_one_voice(nano, voice, with_voice, monkeypatch):
    monkeypatch.setattr(Llasa, "from_pretrained", classmethod(lambda cls, *a, **k: nano))
    monkeypatch.setattr(nano, "_limit", lambda piece: 25)
    pieces = ["It was a long day, and nobody came by to see.", "Then the door went, and it was Anna again."]
    given = dict(text=" ".join(pieces), voice=voice if with_voice else None, n=2, outcome="likelihood", seed=1)
    given["step_tokens"] = 10
    search = nano.search_events(**given)
    assert {(e.chunk, e.chunks) for e in search} == {(0, 2), (1, 2)}
    found = search.result
    assert [c.chunk for c in found.candidates] == [0, 0, 1, 1] and found.best.receipt["pieces"] == pieces
    first, second = found.candidates[0], found.candidates[2]
    np.testing.assert_array_equal(found.best.codes[0], first.codes)
    np.testing.assert_array_equal(found.best.codes[1], second.codes)
    kept = voice.codes["nano"] if with_voice else first.codes.tolist()
    assert found.speeches[2].receipt["voice_codes"] == kept
    np.testing.assert_allclose(Llasa.replay(found.best.receipt).wav, found.best.wav, atol=1e-5)
    # stopped in the second piece: the first is whole, the speech as a whole is not
    search = nano.search_events(**given)
    next(event for event in search if event.chunk == 1)
    cut = search.close()
    assert cut.stopped_early and len(cut.best.codes) == 2 and cut.best.stopped[1] == "running" and not cut.best.complete
    # and before it
    search = nano.search_events(**given)
    next(event for event in search if isinstance(event, Finished))
    cut = search.close()
    assert cut.stopped_early and cut.best.stopped[1] == "running" and not cut.best.complete
    assert cut.best.receipt["search"]["stopped_early"] and not found.best.receipt["search"]["stopped_early"]
    np.testing.assert_allclose(Llasa.replay(cut.best.receipt).wav, cut.best.wav, atol=1e-5)


def test_partial_prm_by_any_speaker_model(nano, voice, speaker_folder, monkeypatch):
    after, decode = set(), nano.codec.decode_after
    monkeypatch.setattr(nano.codec, "decode_after", lambda codes, *more: after.add(len(codes)) or decode(codes, *more))
    settings = dict(method="partial_prm", n=2, branch=2, process_seconds=0.5, outcome="likelihood", seed=0)
    settings["context_codes"] = 10
    found = nano.search("Oh.", voice, process=f"speaker:{speaker_folder}", reference="resynthesis", **settings)
    assert found.verifiers["process"]["verifiers"][0]["source"] == speaker_folder and found.reference == "resynthesis"
    assert after == {0, 10, len(voice.codes["nano"])}  # the reference, beginnings, and what is whole
    assert 1 <= len(found.candidates) <= 2 and set(found.candidates[0].scores) == {"likelihood"}


def test_a_voice_without_audio_is_compared_as_resynthesised(nano, voice, speaker_folder):
    found = nano.search("Oh.", voice.replace(wav=None), n=1, outcome=f"speaker:{speaker_folder}", seed=0)
    assert found.reference == "resynthesis" and -1 <= found.candidates[0].score <= 1


def test_nothing_made_is_said_plainly(nano, voice):
    search = nano.search_events("Oh.", voice, n=1, outcome="likelihood", seed=0)
    with pytest.raises(ValueError, match="stopped before anything was made"):
        search.close()


# -- what it buys ----------------------------------------------------------------------------------------------------


def test_curves_of_choosers_lie_between_chance_and_the_judge(nano):
    """Takes of 20 sentences; "likelihood" knows the errors, "asr" knows nothing of them."""
    from llasa_lite.search_benchmark import SearchBench, Take, agreement, summarise
    from llasa_lite.verifiers import Own

    random = np.random.default_rng(0)
    bench = SearchBench(n=8, choosers=("likelihood", "asr", "asr, likelihood"), guided=())
    takes = []
    for sentence in range(20):
        for index in range(8):
            wrong = int(random.integers(0, 10))
            scores = {"likelihood": -wrong - 0.5 * random.random(), "asr": -random.random()}
            candidate = Candidate(index, np.zeros(50), np.zeros(1), "end", scores)
            takes.append(Take(sentence, "sample", 8, 1, candidate, wrong, 10, random.random()))
    seconds = {("sample", n): [float(n)] for n in (1, 2, 4, 8)} | {("verify", v): [8.0] for v in ("likelihood", "asr")}
    rows = {(r["chooser"], r["n"]): r for r in summarise(takes, seconds, bench, Own(engine=nano.engine, read=list))}
    assert len({rows[name, 1]["wer"] for name, n in rows if n == 1}) == 1  # one take: nothing to choose
    for n in (2, 4, 8):
        best, knowing, blind, chance = (rows[c, n]["wer"] for c in ("oracle", "likelihood", "asr", "random"))
        for chooser in ("likelihood", "random"):
            change = rows[chooser, n]["wer_change"]
            assert change == pytest.approx(rows[chooser, n]["wer"] - chance, abs=2e-4)
            assert rows[chooser, n]["wer_change_low"] <= change <= rows[chooser, n]["wer_change_high"]
        assert best == knowing < blind and abs(blind - chance) < 0.15
        assert rows["likelihood", n]["wer"] < rows["likelihood", n // 2]["wer"]
        assert rows["random", n]["wer"] == rows["random", 1]["wer"]
    assert rows["random", 8]["seconds"] == 8 and rows["asr, likelihood", 4]["seconds"] == 4 + 4 + 4
    row = rows["asr", 8]
    assert row["wer_low"] < row["wer"] < row["wer_high"] and row["similarity_low"] < row["similarity_high"]
    found = {(r["verifier"], r["judge"]): r for r in agreement(takes)}
    assert found["likelihood", "-wer"]["spearman"] > 0.9 > 0.3 > abs(found["asr", "-wer"]["spearman"])
    assert found["asr", "-wer"]["low"] < 0 < found["asr", "-wer"]["high"]


def test_where_nothing_is_whole_one_that_speaks_on_is_better_than_one_that_is_stuck():
    """A stuck syllable can be very like the speaker."""
    from llasa_lite.search import _Beam, _so_far

    def beam(stopped, score):
        candidate = Candidate(0, np.zeros(1), np.zeros(1, np.float32), stopped, {"speaker": score}, (score,))
        return _Beam(0, [1, 2], stopped, candidate=candidate)

    worse_first = [beam("repetition", 0.9), beam("running", 0.5), beam("running", 0.6), beam("end", 0.1)]
    assert sorted(reversed(worse_first), key=_so_far) == worse_first


def test_any_number_of_takes_can_be_measured(nano, voice, monkeypatch):
    from llasa_lite.search_benchmark import SearchBench, evaluate_search, powers, summarise

    assert [powers(n) for n in (1, 2, 6, 8)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8]]
    monkeypatch.setattr(nano, "_limit", lambda piece: 10)
    bench = SearchBench(3, ("likelihood",), guided=())
    *_, (takes, seconds, own) = evaluate_search(nano, ["Oh."], [voice], lambda wav: "oh", None, bench)
    assert {row["n"] for row in summarise(takes, seconds, bench, own)} == {1, 2, 3}
    assert len(takes) == 3 and set(seconds) == {("sample", 1), ("sample", 2), ("sample", 3), ("verify", "likelihood")}
    with pytest.raises(ValueError, match="n must be at least 1, not 0"):
        SearchBench(0)


def test_takes_are_counted_in_the_language_of_the_judge(nano, voice, monkeypatch):
    from llasa_lite.search_benchmark import SearchBench, evaluate_search

    pytest.importorskip("opencc", reason="pip install llasa-lite[eval]")
    monkeypatch.setattr(nano, "_limit", lambda piece: 10)
    monkeypatch.setattr(Loud, "__call__", lambda self, wav: "o", raising=False)
    hear, bench = Loud(), SearchBench(1, ("likelihood",), guided=())  # anybody with a language
    for hear.language, counts in (("en", (1, 1)), ("zh", (1, 2))):
        ((takes, _, _),) = evaluate_search(nano, ["Oh."], [voice], hear, None, bench)
        assert (takes[0].edits, takes[0].words) == counts


@pytest.mark.parametrize(
    "bench, told",
    [
        (dict(choosers=("ears",)), "Unknown verifier 'ears'"),
        (dict(process="asr"), "judges whole sentences and cannot guide a beginning"),
        (dict(guided=((0, 4),)), "n must be a whole number of at least 1, not 0"),
        (dict(choosers=("likelihood", "asr:a/judge")), "'a/judge' chooses among the takes and cannot judge them too"),
        (dict(outcome="1*likelihood + 1*asr:a/judge"), "'a/judge' chooses among the takes"),
        ({}, "'So it went on and on.*' would be spoken in pieces"),
    ],
    ids=str,
)
def test_what_cannot_be_measured_is_refused_before_anything_is_sampled(nano, voice, monkeypatch, bench, told):
    from llasa_lite.search_benchmark import SearchBench, evaluate_search

    monkeypatch.setattr(nano.engine, "start", None)
    hear = Loud()  # anybody with a name
    hear.name = "a/judge"
    sentences = ["Oh.", "Oh yes." if bench else "So it went on and on. " * 9]
    with pytest.raises(ValueError, match=told):
        next(evaluate_search(nano, sentences, [voice], hear, None, SearchBench(2, **bench)))


def test_evaluate_search_writes_what_it_measured(nano, voice, speaker_folder, tmp_path, monkeypatch):
    from llasa_lite.records import Records
    from llasa_lite.search_benchmark import SearchBench, agreement, evaluate_search, read, summarise, write

    monkeypatch.setattr(nano, "_limit", lambda piece: 30)
    choosers = ("likelihood", f"speaker:{speaker_folder}", "speaker")
    bench = SearchBench(2, choosers, choosers[1], "likelihood", ((2, 2),), seed=3)
    judges = (lambda wav: "oh " * (len(wav) % 3), verifier("speaker"))
    asked = nano, ["Oh.", "Oh yes."], [voice], *judges, bench
    keep = partial(Records, tmp_path / "rows.jsonl")
    stopped = evaluate_search(*asked, keep)
    next(stopped)  # one of two sentences, and the run is stopped
    stopped.close()
    *_, (takes, seconds, own) = evaluate_search(*asked, keep)
    plain = [take.candidate for take in takes if take.method == "sample"]
    alone = nano.tts("Oh yes.", voice, seed=4)  # the first take of the second sentence
    np.testing.assert_array_equal(plain[2].codes, alone.codes[0])
    assert all(take.scores["speaker"] != take.scores[choosers[1]] for take in plain)  # of two models, each its own
    summary = summarise(takes, seconds, bench, own)
    with monkeypatch.context() as patched:
        patched.setattr(nano.engine, "start", None)  # what is measured is not sampled again
        (again,) = evaluate_search(*asked, keep)
    assert (summarise(*again[:2], bench, own), agreement(again[0])) == (summary, agreement(takes))
    assert {r["method"] for r in summary} == {"best_of_n", "beam_search", "partial_prm"}
    assert all(row["seconds"] > 0 and row["sentences"] == 2 for row in summary)
    for path in write(tmp_path, takes, summary, agreement(takes) or summary, "the command"):
        assert path.read_text().count("\n") >= 3
    assert "the command" in (tmp_path / "search.csv").read_text()
    assert (tmp_path / "search_agreement.csv") in write(tmp_path, takes, summary, summary, "the command")
    assert len(write(tmp_path, takes, summary, [], "another")) == 2  # what another run left is not its own
    assert not (tmp_path / "search_agreement.csv").exists()
    assert "another" in (tmp_path / "search.csv").read_text()
    rows = list(csv.DictReader((tmp_path / "search_takes.csv").open()))
    assert [row["likelihood"] for row in rows[:2]] == [str(round(c.scores["likelihood"], 4)) for c in plain[:2]]
    assert [row["likelihood"] == "" for row in rows] == [row["method"] == "beam_search" for row in rows]  # PRM alone
    pytest.importorskip("matplotlib", reason="pip install llasa-lite[plot]")
    from llasa_lite.plots import plot_search

    kept = read(tmp_path / "search.csv")
    assert [{k: v for k, v in row.items() if k not in ("machine", "command")} for row in kept] == summary
    plot_search(kept).savefig(tmp_path / "search.png")
    assert (tmp_path / "search.png").stat().st_size > 10_000


def test_a_piece_that_is_done_holds_no_rows(hunt):
    """Of a long text they would be held for every piece."""
    search = hunt("best_of_n", n=4)
    events = search.events()
    next(events)
    rows = weakref.ref(search.beams)
    assert isinstance([*events][-1], Finished)
    gc.collect()
    assert rows() is None and len(search.candidates()) == 4


@pytest.mark.parametrize("steps", [1, 99])
def test_a_search_that_nobody_reads_gives_its_rows_back_at_once(nano, steps):
    """On a GPU they are gigabytes, which the next search needs: none waits for the garbage collector, nor until who
    closed the search lets go of it."""
    search = nano.search_events("Oh.", voice="emma", n=2, outcome="likelihood", seed=1)
    next(search)
    rows = weakref.ref(search.chunks[0][0].beams)
    for _ in zip(range(steps - 1), search):
        pass
    gc.collect(), gc.disable()
    try:
        search.close()
        assert rows() is None
    finally:
        gc.enable()
