"""Chat templates: a conversation written out the way a model was trained to read it.

In: the Jinja text from tokenizer_config.json or chat_template.jinja. Out: the prompt's text. Templates come
with models, so they run in a sandbox; what goes wrong inside is the request's error. Knows no tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from narrows.errors import InvalidModel, InvalidRequest

if TYPE_CHECKING:
    from jinja2 import Template, nodes
    from jinja2.parser import Parser


def read_chat_template(folder: Path, tokenizer_config: Mapping[str, Any]) -> str | None:
    """chat_template.jinja, or tokenizer_config.json's chat_template (one text, or several with names)."""
    file = folder / "chat_template.jinja"
    if file.exists():
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidModel(f"{file} cannot be read ({error}); download it again") from error
    value = tokenizer_config.get("chat_template")
    if isinstance(value, list):
        named = {item.get("name"): item.get("template") for item in value if isinstance(item, dict)}
        value = named.get("default")
    if value is not None and not isinstance(value, str):
        raise InvalidModel(
            f"{folder / 'tokenizer_config.json'}: chat_template is neither a text nor a list of named ones"
        )
    return value


class ChatTemplate:
    """A compiled template. `names` are the special tokens it may write, such as bos_token."""

    def __init__(self, text: str, names: Mapping[str, str]) -> None:
        self._text = text
        self._names = dict(names)
        self._template: Template | None = None

    def render(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True) -> str:
        """The conversation as text; raises InvalidRequest with the template's own words where it refuses."""
        from jinja2 import TemplateError  # with the first conversation: importing jinja2 costs 40 ms

        try:
            if self._template is None:
                self._template = _compile(self._text)
            rendered = self._template.render(
                messages=[dict(message) for message in messages],
                add_generation_prompt=add_generation_prompt,
                tools=None,
                documents=None,
                **self._names,
            )
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            raise InvalidRequest(
                f"the model's chat template refused these messages: {error}", param="messages"
            ) from error
        except RecursionError as error:
            raise InvalidRequest(
                "the model's chat template does not end on these messages", param="messages"
            ) from error
        return str(rendered)


def _compile(text: str) -> Template:
    from jinja2 import TemplateError
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class GenerationTag(Extension):
        """{% generation %} marks what a model wrote, for training; here it only stands around its text."""

        tags = {"generation"}  # noqa: RUF012 (an instance variable in the base class)

        def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
            next(parser.stream)
            body: list[nodes.Node] = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return body

    def raise_exception(message: str) -> NoReturn:
        raise TemplateError(message)

    def tojson(
        value: object,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        # Jinja's own filter escapes HTML, which no model was trained on.
        return json.dumps(
            value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", GenerationTag]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda pattern: datetime.now().strftime(pattern)
    return environment.from_string(text)
