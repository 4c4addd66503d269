"""One engine, stepped by hand: ends, logprobs, prompts without answers, requests that fail alone."""

from __future__ import annotations

import pytest
from engine_cases import Driver, answer_alone, ask, make_engine

from narrows.engine.engine import Engine
from narrows.engine.fake import BOS_ID, EOS_ID, ByteTokenizer, FakeRunner, reply_with
from narrows.engine.step import SequenceResult, StepResult, TokenLogprob
from narrows.errors import ContextTooLong, InternalError, InvalidModel


def replying(text: str | bytes) -> FakeRunner:
    return FakeRunner(choose=reply_with(text))


def test_an_answer_ends_at_the_models_end_token_which_is_not_shown() -> None:
    answer = answer_alone(ask("hi", 50), replying("hello"))
    last = answer.chunks[-1]
    assert (answer.text, last.finish_reason, last.stop_reason) == ("hello", "stop", None)
    assert EOS_ID not in answer.token_ids
    assert last.timing is not None
    assert last.timing.num_output == 6


def test_an_ignored_end_token_is_a_token_without_text() -> None:
    answer = answer_alone(ask("hi", 7, ignore_eos=True), replying("hello"))
    assert (answer.text, answer.finish_reason) == ("hello", "length")
    assert answer.token_ids == [*b"hello", EOS_ID, EOS_ID]


def test_a_callers_own_end_token_is_the_stop_reason() -> None:
    answer = answer_alone(ask("hi", 50, stop_token_ids=(ord("l"),)), replying("hello"))
    assert (answer.text, answer.finish_reason, answer.chunks[-1].stop_reason) == ("he", "stop", ord("l"))


def test_a_stop_string_ends_the_request_in_the_step_that_completes_it() -> None:
    runner = replying("one two three")
    driver = Driver(make_engine(runner))
    driver.submit(1, ask("hi", 50, stop=("two",)))
    driver.finish()
    assert (driver.answers[1].text, driver.answers[1].chunks[-1].stop_reason) == ("one ", "two")
    assert runner.num_steps == len("one two")


def test_a_stop_string_completed_by_the_last_token_allowed_counts_as_stop() -> None:
    answer = answer_alone(ask("hi", 3, stop=("lo",)), replying("xlo"))
    assert (answer.text, answer.finish_reason) == ("x", "stop")


def test_text_held_back_is_released_when_the_answer_ends_otherwise() -> None:
    answer = answer_alone(ask("hi", 3, stop=("lock",)), replying("xlo"))
    assert (answer.text, answer.finish_reason, answer.token_ids) == ("xlo", "length", [*b"xlo"])


def test_max_tokens_inside_a_character_ends_in_one_replacement_character() -> None:
    answer = answer_alone(ask("hi", 3), replying("a€"))
    assert answer.text == "a\ufffd" == ByteTokenizer().decode(answer.token_ids)


def test_logprobs_come_with_their_candidates_best_first() -> None:
    answer = answer_alone(ask("hi", 6, temperature=0.0, top_logprobs=3, ignore_eos=True))
    for token in answer.tokens:
        assert len(token.top) == 3
        assert token.logprob == token.top[0].logprob == max(candidate.logprob for candidate in token.top)
        assert token.top[0].token_id == token.token_id


def test_without_logprobs_there_are_none() -> None:
    assert all(token.logprob is None and token.top == () for token in answer_alone(ask()).tokens)


@pytest.mark.parametrize("max_tokens", [0, 1, 5])
def test_prompt_logprobs_come_once_and_do_not_depend_on_chunks(max_tokens: int) -> None:
    request = ask("the prompt", max_tokens, prompt_logprobs=2, ignore_eos=True)
    whole = answer_alone(request)
    chunked = answer_alone(request, FakeRunner(max_step_tokens=3))
    records = whole.chunks[0].prompt_tokens
    assert whole.gist == chunked.gist
    assert [chunk.prompt_tokens for chunk in whole.chunks[1:]] == [()] * (len(whole.chunks) - 1)
    assert "".join(record.text for record in records) == "the prompt"
    assert [record.offset for record in records] == list(range(len("the prompt")))
    assert records[0].logprob is None
    assert all(record.logprob is not None and len(record.top) == 2 for record in records[1:])


def test_a_request_for_no_tokens_reads_its_prompt_and_ends() -> None:
    answer = answer_alone(ask("hi", 0))
    assert (answer.text, answer.tokens, answer.finish_reason) == ("", [], "length")


def test_steps_are_counted_by_the_power_of_two_that_holds_their_requests() -> None:
    driver = Driver(make_engine(max_running=6))
    for request_id in range(6):
        driver.submit(request_id, ask("hi", 1 + request_id, ignore_eos=True))
    driver.finish()
    counters = driver.engine.counters
    # One token each a step, so the steps have 6, 5, 4, 3, 2 and 1 requests.
    assert counters.steps_by_batch == [1, 1, 2, 2]
    assert (counters.steps, counters.sequences) == (6, 21)


def test_min_tokens_holds_the_end_token_off() -> None:
    plain = answer_alone(ask("q", 40, temperature=0.0, logit_bias=((EOS_ID, 100.0),)))
    held = answer_alone(ask("q", 40, temperature=0.0, logit_bias=((EOS_ID, 100.0),), min_tokens=9))
    assert plain.tokens == []
    assert len(held.tokens) == 9


def test_logits_that_are_not_finite_fail_their_request_only() -> None:
    runner = FakeRunner()
    runner.poison_id = ord("!")
    driver = Driver(make_engine(runner))
    driver.submit(1, ask("bad!", 5))
    driver.submit(2, ask("good", 5, ignore_eos=True))
    driver.finish()
    assert isinstance(driver.answers[1].error, InvalidModel)
    assert "not finite" in str(driver.answers[1].error)
    assert driver.answers[2].gist == answer_alone(ask("good", 5, ignore_eos=True)).gist
    assert (driver.engine.counters.failed, runner.num_samplers) == (1, 0)


class NotFiniteRunner(FakeRunner):
    """As the core does: the logprobs of a prompt whose logits are not finite are NaN."""

    def _target(self, sequence, length, token_id):
        chosen, best = super()._target(sequence, length, token_id)
        return (TokenLogprob(token_id, float("nan")) if token_id == ord("!") else chosen), best


@pytest.mark.parametrize("max_step_tokens", [2, 64])
def test_prompt_logprobs_that_are_not_finite_fail_their_request_only(max_step_tokens: int) -> None:
    driver = Driver(make_engine(NotFiniteRunner(max_step_tokens=max_step_tokens)))
    driver.submit(1, ask("bad! prompt", 0, prompt_logprobs=1))
    driver.submit(2, ask("good", 0, prompt_logprobs=1))
    driver.finish()
    assert isinstance(driver.answers[1].error, InvalidModel)
    assert driver.answers[2].finish_reason == "length"
    assert driver.engine.counters.failed == 1


@pytest.mark.parametrize(
    ("prompt", "is_turn", "text"),
    [
        ((BOS_ID, *b"once"), False, " upon"),  # goes on where the prompt ends
        ((BOS_ID,), False, "upon"),  # the beginning of a text
        ((BOS_ID, *b"once"), True, "upon"),  # a turn of its own
    ],
)
def test_only_a_texts_own_first_space_is_dropped(prompt: tuple[int, ...], is_turn: bool, text: str) -> None:
    tokenizer = ByteTokenizer()
    tokenizer.strips_leading_space = True
    driver = Driver(Engine(replying(" upon"), tokenizer, eos_ids=tokenizer.eos_ids, config=engine_config()))
    driver.submit(1, ask(prompt, 20, is_turn=is_turn))
    driver.finish()
    assert driver.answers[1].text == text


class ChoosyRunner(FakeRunner):
    def add(self, request_id, params, prompt_ids) -> None:
        if params.seed == 13:
            raise ValueError("an unlucky number")
        super().add(request_id, params, prompt_ids)


def test_a_request_the_runner_does_not_take_fails_alone() -> None:
    driver = Driver(make_engine(ChoosyRunner()))
    driver.submit(1, ask("a", 5, seed=13))
    driver.submit(2, ask("a", 5, seed=14))
    driver.finish()
    assert isinstance(driver.answers[1].error, InternalError)
    assert "unlucky" in str(driver.answers[1].error)
    assert driver.answers[2].gist == answer_alone(ask("a", 5, seed=14)).gist


def test_a_request_longer_than_the_whole_pool_is_refused_before_it_runs() -> None:
    engine = make_engine(FakeRunner(num_blocks=4, block_size=4, max_context=512))
    assert engine.info.max_context == 16
    with pytest.raises(ContextTooLong, match=r"16 tokens but .* 16"):
        engine.prepare(1, ask("x" * 16, None))


def test_end_tokens_outside_the_models_vocabulary_are_not_passed_on() -> None:
    tokenizer = ByteTokenizer()
    tokenizer.eos_ids = frozenset({EOS_ID, 5000})
    engine = make_engine()
    engine = type(engine)(FakeRunner(), tokenizer, eos_ids=tokenizer.eos_ids, config=engine_config())
    assert engine.prepare(1, ask()).request.params.stop_token_ids == (EOS_ID,)


def engine_config():
    from narrows.engine.config import EngineConfig

    return EngineConfig()


class ForgetfulRunner(FakeRunner):
    """Breaks the contract: loses a sequence, or draws no token."""

    def __init__(self, *, loses: bool) -> None:
        super().__init__()
        self._loses = loses

    def run(self, step):
        result = super().run(step)
        kept = () if self._loses else tuple(SequenceResult(s.request_id) for s in result.sequences)
        return StepResult(kept)


@pytest.mark.parametrize("loses", [True, False])
def test_a_runner_that_breaks_the_contract_is_found_out(loses: bool) -> None:
    driver = Driver(make_engine(ForgetfulRunner(loses=loses)))
    driver.submit(1, ask())
    with pytest.raises(InternalError):
        driver.step()


def test_blocks_given_back_twice_or_lost_are_found_out() -> None:
    from narrows.engine.blocks import BlockPool

    pool = BlockPool(4)
    taken = pool.allocate(2)
    pool.check_integrity([taken])
    with pytest.raises(InternalError, match="0 blocks owned"):
        pool.check_integrity([])
    with pytest.raises(InternalError):
        pool.check_integrity([taken, taken])
    pool.release(taken)
    with pytest.raises(InternalError, match="twice"):
        pool.release(taken)
    with pytest.raises(InternalError, match="5 blocks"):
        pool.allocate(5)


def test_the_scheduler_and_the_step_import_neither_numpy_nor_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys, narrows.engine.scheduler, narrows.engine.worker, narrows.engine.fake; "
        "print([m for m in ('numpy', 'torch', 'transformers') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
