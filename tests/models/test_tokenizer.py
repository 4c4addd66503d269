"""Encoding as transformers does, exact token bytes, end tokens, chat templates, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from narrows.errors import InvalidModel, InvalidRequest, UnsupportedModel
from narrows.models.tokenizer import Tokenizer
from tests.models.real import NAMES, real_model

TEXTS = (
    "Once upon a time",
    " two  spaces ",
    "a\nb\tc",
    "h\u00e9llo \u4f60\u597d \U0001f389!",
    "",
    " ",
    "\u2581",
    "e\u0301\u200d",
)


def byte_level() -> FastTokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(alphabet)}
    vocab["he"] = len(vocab)
    fast = FastTokenizer(models.BPE(vocab=vocab, merges=[("h", "e")]))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    fast.add_special_tokens(["<s>", "</s>"])
    fast.add_tokens(["plain added"])
    return fast


def sentencepiece(*, strip: bool = True, metaspace: bool = False) -> FastTokenizer:
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", "a", "b", "\u2581a"]
    fast = FastTokenizer(
        models.BPE(
            vocab={piece: i for i, piece in enumerate(pieces)},
            merges=[("\u2581", "a")],
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    if metaspace:
        fast.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
        fast.decoder = decoders.Sequence(
            [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always", split=False)]
        )
    else:
        fast.normalizer = normalizers.Sequence(
            [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
        )
        steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
        fast.decoder = decoders.Sequence([*steps, *([decoders.Strip(" ", 1, 0)] if strip else [])])
    fast.add_special_tokens(["<s>", "</s>"])
    return fast


def save(folder: Path, fast: FastTokenizer, **settings: Any) -> Tokenizer:
    fast.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return Tokenizer.from_folder(folder)


@pytest.mark.parametrize("name", NAMES)
def test_real_tokenizers_encode_and_decode_as_transformers(name: str) -> None:
    folder = real_model(name)
    ours, theirs = Tokenizer.from_folder(folder), AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        assert ours.encode(text) == theirs(text)["input_ids"]
        assert ours.encode(text, add_special=False) == theirs(text, add_special_tokens=False)["input_ids"]
        assert ours.decode(ours.encode(text)) == theirs.decode(
            theirs(text)["input_ids"], skip_special_tokens=True
        )
    assert theirs.eos_token_id in ours.eos_ids
    assert ours.bos_id == theirs.bos_token_id


@pytest.mark.parametrize(
    "fast",
    [byte_level(), sentencepiece(), sentencepiece(strip=False), sentencepiece(metaspace=True)],
    ids=["byte_level", "sentencepiece", "gemma", "metaspace"],
)
def test_joined_token_bytes_are_the_text(fast: FastTokenizer, tmp_path: Path) -> None:
    ours = save(tmp_path, fast)
    for text in TEXTS:
        ids = ours.encode(text)
        assert ours.decode(ids) == fast.decode(ids)
        joined = b"".join(map(ours.token_bytes, ids)).decode()
        assert (
            joined[1:] if ours.strips_leading_space and joined.startswith(" ") else joined
        ) == ours.decode(ids)


def test_token_bytes_are_exact(tmp_path: Path) -> None:
    plain = save(tmp_path, byte_level())
    assert plain.token_bytes(plain.encode("he")[0]) == b"he"
    assert b"".join(plain.token_bytes(i) for i in plain.encode("\u4f60")) == "\u4f60".encode()
    assert {plain.token_bytes(i) for i in range(256)} == {bytes([byte]) for byte in range(256)}
    assert plain.token_bytes(plain.token_id("<s>") or 0) == b""
    assert plain.token_bytes(plain.token_id("plain added") or 0) == b"plain added"
    assert plain.token_bytes(10**6) == plain.token_bytes(-1) == b""
    assert not plain.strips_leading_space
    pieces = save(tmp_path, sentencepiece())
    assert pieces.token_bytes(pieces.token_id("<0xE4>") or 0) == b"\xe4"
    assert pieces.token_bytes(pieces.token_id("\u2581a") or 0) == b" a"
    assert pieces.strips_leading_space
    assert not save(tmp_path, sentencepiece(strip=False)).strips_leading_space


@pytest.mark.parametrize("add_bos", [None, True, False])
@pytest.mark.parametrize("template", [["$A"], ["<s>", "$A"], ["<s>", "$A", "</s>"]], ids=len)
def test_tokenizer_json_alone_says_what_is_added(
    tmp_path: Path, add_bos: bool | None, template: list[str]
) -> None:
    fast = sentencepiece()
    special = [(token, fast.token_to_id(token)) for token in ("<s>", "</s>")]
    fast.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    settings = {"bos_token": "<s>", "eos_token": {"__type": "AddedToken", "content": "</s>"}}
    ours = save(tmp_path, fast, **settings, **({} if add_bos is None else {"add_bos_token": add_bos}))
    theirs = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    for add_special in (True, False):
        expected = theirs("a b", add_special_tokens=add_special)["input_ids"]
        assert ours.encode("a b", add_special=add_special) == expected
    assert len(ours.encode("a b")) == len(ours.encode("a b", add_special=False)) + len(template) - 1


def test_end_tokens_come_from_every_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"eos_token_id": 9}')
    assert save(tmp_path, byte_level(), eos_token="</s>").eos_ids == {9, 258}
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [7, 8]}')
    assert Tokenizer.from_folder(tmp_path).eos_ids == {7, 8, 258}
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": "</s>"}')
    with pytest.raises(InvalidModel, match="eos_token_id is '</s>'"):
        Tokenizer.from_folder(tmp_path)


def test_missing_and_damaged_files_are_refused_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match=r"tokenizer.json is missing.*AutoTokenizer"):
        Tokenizer.from_folder(tmp_path)
    for content in (b"", b"{}", b'{"model": 3}', b"\xff\xfe"):
        (tmp_path / "tokenizer.json").write_bytes(content)
        with pytest.raises(InvalidModel, match="damaged or of an unknown format"):
            Tokenizer.from_folder(tmp_path)


def test_unknown_decoders_are_refused_by_name(tmp_path: Path) -> None:
    fast = byte_level()
    fast.decoder = decoders.WordPiece()
    with pytest.raises(
        UnsupportedModel, match="the decoder WordPiece is not supported; supported: ByteLevel"
    ):
        save(tmp_path, fast)


def test_ids_beyond_the_embedding_are_refused(tmp_path: Path) -> None:
    save(tmp_path, byte_level())
    with pytest.raises(InvalidModel, match="has 257 tokens but the model's embedding has 200 rows"):
        Tokenizer.from_folder(tmp_path, vocab=200)
    small = Tokenizer.from_folder(
        tmp_path, vocab=258
    )  # one special token has no row: only its use is refused
    assert small.encode("he<s>") == [256, 257]
    with pytest.raises(InvalidRequest, match="'</s>', token 258, but this model's vocabulary ends at 257"):
        small.encode("he</s>")
    assert small.token_bytes(258) == b""


def test_lone_surrogates_are_the_request_s_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="not valid Unicode"):
        save(tmp_path, byte_level()).encode("a\ud800b")


MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi <b> \u4f60"}]
TEMPLATES = [
    "{% for message in messages %}\n  {{ message.role }}: {{ message['content'] | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}\nassistant:{% endif %}",
    "{{ bos_token }}{{ messages | tojson }}{{ eos_token }}",
    "{{ messages | tojson(indent=2) }}{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = "
    "ns.n + 1 %}"
    "{% if loop.last %}{% break %}{% endif %}{% endfor %}{{ ns.n }}",
    "{% if tools %}tools{% endif %}{% generation %}{{ messages[0].content.split(' ')[-1] }}{% "
    "endgeneration %}",
]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("place", ["text", "named", "file"])
def test_chat_templates_render_as_transformers(tmp_path: Path, template: str, place: str) -> None:
    settings: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>"}
    if place == "text":
        settings["chat_template"] = template
    elif place == "named":
        settings["chat_template"] = [
            {"name": "tool_use", "template": "x"},
            {"name": "default", "template": template},
        ]
    else:
        (tmp_path / "chat_template.jinja").write_text(template)
    ours = save(tmp_path, byte_level(), **settings)
    theirs = PreTrainedTokenizerFast(
        tokenizer_object=byte_level(), bos_token="<s>", eos_token="</s>", chat_template=template
    )
    for add in (True, False):
        expected = theirs.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=add)
        assert ours.render_chat(MESSAGES, add_generation_prompt=add) == expected


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[7].content }}", "refused these messages"),
        ("{% for m in messages %}", "refused these messages"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "refused these messages"),
        ("{{ messages.append(1) }}", "refused these messages"),
        ("{% for i in range(999999999) %}x{% endfor %}", "refused these messages"),
        ("{{ 1 / 0 }}", "refused these messages"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "does not end"),
    ],
)
def test_templates_that_fail_are_the_request_s_error(tmp_path: Path, template: str, message: str) -> None:
    ours = save(tmp_path, byte_level(), chat_template=template)
    with pytest.raises(InvalidRequest, match=message) as caught:
        ours.render_chat(MESSAGES)
    assert caught.value.param == "messages"


def test_no_template_points_to_completions(tmp_path: Path) -> None:
    ours = save(tmp_path, byte_level())
    assert not ours.has_chat_template
    with pytest.raises(InvalidRequest, match="no chat template; use /v1/completions"):
        ours.render_chat(MESSAGES)
    with pytest.raises(InvalidModel, match="chat_template is neither"):
        save(tmp_path, byte_level(), chat_template=3)
