"""The request bodies of the OpenAI API that Narrows understands, strictly typed; everything else is refused.

In: JSON values. Out: frozen models with every number in range. Fields that ask for nothing here (labels
such as `user`) are accepted; a field that asks for something Narrows does not do is refused by name. Knows
no engine and no tokenizer.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic.functional_validators import BeforeValidator, PlainValidator
from pydantic_core import PydanticCustomError

MAX_MESSAGES = 4096
MAX_STOP_STRINGS = 16
MAX_STOP_CHARS = 256
MAX_CHOICES_PER_PROMPT = 64
MAX_PROMPTS = 64
MAX_TOP_LOGPROBS = 20
MAX_BIASED_TOKENS = 1024
MAX_TOKENS = 2**31 - 1
MAX_LABEL_CHARS = 512

# Fields of OpenAI's API that would change the answer in a way Narrows cannot: why, or what to do instead.
UNSUPPORTED = {
    "audio": "only text is produced",
    "best_of": "only best_of equal to n; ask for n answers instead",
    "function_call": "function calling is not supported; leave it out",
    "functions": "function calling is not supported; describe the functions in a message",
    "modalities": 'only ["text"] is produced',
    "moderation": "no moderation is done",
    "prediction": "predicted outputs are not supported; leave it out",
    "prompt_cache_options": "the prompt cache has no options; leave it out",
    "prompt_cache_retention": "the prompt cache has no options; leave it out",
    "reasoning_effort": 'only "none"; leave it out',
    "response_format": 'only {"type": "text"}; structured output is not supported',
    "service_tier": 'only "auto" and "default"',
    "store": "nothing is stored; leave it out or send false",
    "suffix": "inserting before a suffix is not supported; leave it out",
    "tool_choice": 'only "none"; tools are not supported',
    "tools": "tool calling is not supported; describe the tools in a message",
    "verbosity": "not supported; say in a message how long the answer should be",
    "web_search_options": "nothing is searched; leave it out",
}


def _stop_strings(value: object) -> tuple[str, ...]:
    """Checked by hand: a list of a million wrong things must give one short message, quickly."""
    strings = [value] if isinstance(value, str) else value
    if value is None:
        return ()
    if not isinstance(strings, list) or len(strings) > MAX_STOP_STRINGS:
        raise PydanticCustomError(
            "stop", f"should be a string or a list of at most {MAX_STOP_STRINGS} strings"
        )
    for text in strings:
        if not isinstance(text, str) or not 0 < len(text) <= MAX_STOP_CHARS:
            raise PydanticCustomError(
                "stop", f"each stop string should have 1 to {MAX_STOP_CHARS} characters"
            )
    return tuple(strings)


def _prompts(value: object) -> tuple[str | tuple[int, ...], ...]:
    """A prompt is a text or a list of token ids; one or several of either kind become a tuple of prompts."""
    several = value if isinstance(value, list) and value and isinstance(value[0], str | list) else [value]
    if len(several) > MAX_PROMPTS:
        raise PydanticCustomError(
            "prompt", f"at most {MAX_PROMPTS} prompts in one request, got {len(several)}"
        )
    prompts: list[str | tuple[int, ...]] = []
    for prompt in several:
        if type(prompt) is not type(several[0]):
            raise PydanticCustomError(
                "prompt", "should be all texts or all lists of token ids, not a mixture"
            )
        prompts.append(prompt if isinstance(prompt, str) else _token_ids(prompt))
    return tuple(prompts)


def _token_ids(value: object) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise PydanticCustomError(
            "prompt", "should be a string, a list of strings, or one or several lists of token ids"
        )
    if not value:
        raise PydanticCustomError("prompt", "a prompt needs at least one token")
    if not all(type(token) is int and 0 <= token < 2**31 for token in value):
        raise PydanticCustomError("prompt", "token ids should be integers that are not negative")
    return tuple(value)


def _biases(value: object) -> object:
    """Before pydantic sees the dict: its size, and keys that are token ids."""
    if isinstance(value, dict):
        if len(value) > MAX_BIASED_TOKENS:
            raise PydanticCustomError("logit_bias", f"at most {MAX_BIASED_TOKENS} tokens, got {len(value)}")
        for key in value:
            if not (key.isascii() and key.isdigit() and len(key) <= 10):
                raise PydanticCustomError("logit_bias", "the keys should be token ids, as strings of digits")
    return value


_TOKEN_ID_SCHEMA = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
_TOKENS_SCHEMA = {"type": "array", "minItems": 1, "items": _TOKEN_ID_SCHEMA}
_STOP_SCHEMA = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_CHARS}
_TEXT_SCHEMA = {"type": "string"}

Stop = Annotated[
    tuple[str, ...],
    PlainValidator(_stop_strings),
    WithJsonSchema(
        {
            "anyOf": [
                _STOP_SCHEMA,
                {"type": "array", "items": _STOP_SCHEMA, "maxItems": MAX_STOP_STRINGS},
                {"type": "null"},
            ]
        }
    ),
]
Prompt = Annotated[
    tuple[str | tuple[int, ...], ...],
    PlainValidator(_prompts),
    WithJsonSchema(
        {
            "anyOf": [
                _TEXT_SCHEMA,
                {"type": "array", "items": _TEXT_SCHEMA, "minItems": 1, "maxItems": MAX_PROMPTS},
                _TOKENS_SCHEMA,
                {"type": "array", "items": _TOKENS_SCHEMA, "minItems": 1, "maxItems": MAX_PROMPTS},
            ]
        }
    ),
]
Biases = Annotated[
    dict[str, Annotated[float, Field(ge=-100, le=100)]] | None,
    BeforeValidator(_biases),
    WithJsonSchema(
        {
            "anyOf": [
                {
                    "type": "object",
                    "maxProperties": MAX_BIASED_TOKENS,
                    "propertyNames": {"pattern": "^[0-9]{1,10}$"},
                    "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
                },
                {"type": "null"},
            ]
        }
    ),
]
Label = Annotated[str | None, Field(max_length=MAX_LABEL_CHARS)]
Penalty = Annotated[float | None, Field(ge=-2, le=2)]
TokenCount = Annotated[int | None, Field(ge=1, le=MAX_TOKENS)]


class Strict(BaseModel):
    """No coercion, no unknown fields, no infinities."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        protected_namespaces=(),
    )


class StreamOptions(Strict):
    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class TextFormat(Strict):
    type: Literal["text"]


class GenerationFields(Strict):
    """What completions and chat completions share."""

    model: str = Field(max_length=MAX_LABEL_CHARS)
    n: int | None = Field(None, ge=1, le=MAX_CHOICES_PER_PROMPT)
    stop: Stop = ()
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    presence_penalty: Penalty = None
    frequency_penalty: Penalty = None
    logit_bias: Biases = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Label = None
    # Extensions, as other servers of open models name them.
    top_k: int | None = Field(None, ge=-1, le=MAX_TOKENS)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    min_tokens: int | None = Field(None, ge=0, le=MAX_TOKENS)
    ignore_eos: bool | None = None


class CompletionRequest(GenerationFields):
    prompt: Prompt
    max_tokens: Annotated[int | None, Field(ge=0, le=MAX_TOKENS)] = None
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    best_of: int | None = Field(None, ge=1, le=MAX_CHOICES_PER_PROMPT)
    suffix: Literal[""] | None = None


class TextPart(Strict):
    type: Literal["text"]
    text: str


class Message(Strict):
    """One turn. The fields without use here are those an answer of ours carries when it is sent back."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    name: Label = None
    refusal: None = None
    annotations: Annotated[list[str], Field(max_length=0)] | None = None
    audio: None = None
    function_call: None = None
    tool_calls: None = None

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(GenerationFields):
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    max_tokens: TokenCount = None
    max_completion_tokens: TokenCount = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    # Fields of OpenAI's API with one value that Narrows honours by doing nothing.
    metadata: Annotated[dict[str, Label], Field(max_length=16)] | None = None
    modalities: Annotated[list[Literal["text"]], Field(min_length=1, max_length=1)] | None = None
    parallel_tool_calls: bool | None = None
    prompt_cache_key: Label = None
    reasoning_effort: Literal["none"] | None = None
    response_format: TextFormat | None = None
    safety_identifier: Label = None
    service_tier: Literal["auto", "default"] | None = None
    store: Literal[False] | None = None
    tool_choice: Literal["none"] | None = None
    # Fields that Narrows does not honour; clients that spell out every default send them as null.
    audio: None = None
    function_call: Literal["none"] | None = None
    functions: None = None
    moderation: None = None
    prediction: None = None
    prompt_cache_options: None = None
    prompt_cache_retention: None = None
    tools: None = None
    verbosity: None = None
    web_search_options: None = None


class TokenizeRequest(Strict):
    """Either a text or a conversation."""

    model: Label = None
    prompt: str | None = None
    messages: (
        Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)] | None
    ) = None
    add_special_tokens: bool | None = None


class DetokenizeRequest(Strict):
    model: Label = None
    tokens: Annotated[
        list[Annotated[int, Field(ge=0, le=2**31 - 1)]], Field(max_length=1_000_000, fail_fast=True)
    ]
