"""Which group an operator of torch belongs to, by its name and the operators it was called from.

In: names as torch.profiler and the dispatcher write them ("aten::addmm", "aten.addmm.default"). Out: one of
GROUPS. What is no operator (a range of the user's, a call into the driver) is None: its time lies outside.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, Literal, get_args

Group = Literal["matrices", "attention", "elementwise", "gather", "copies", "conversion", "sampling", "views"]
GROUPS: Final[tuple[Group, ...]] = get_args(Group)
SAMPLING_RANGE: Final = "narrows.sampling"  # record_function around the choice of a token

_ATTENTION: Final = re.compile(r"scaled_dot_product|flash_attention|efficient_attention|flex_attention|_fmha")
_MATRICES: Final = re.compile(
    r"(addmm|_addmm_activation|mm|addmv|mv|dot|vdot|linear|matmul|einsum|_scaled_mm|_grouped_mm|_int_mm"
    r"|bmm|baddbmm|addbmm|_weight_int[48]pack_mm\w*|linear_\w+|_linear_pointwise|mkldnn_linear"
    r"|conv\w*|_convolution\w*|mkldnn_\w*conv\w*|cudnn_conv\w*|_slow_conv\w*|thnn_conv\w*|lstm|gru)"
)
_PRODUCTS: Final = {"bmm", "baddbmm", "softmax", "_softmax", "_safe_softmax"}  # attention written out
_COPIES: Final = re.compile(
    r"(copy|clone|contiguous|cat|_cat|concat|concatenate|stack|hstack|vstack|repeat|repeat_interleave|tile"
    r"|index_copy|slice_scatter|select_scatter|roll|pad|constant_pad_nd|flip)"
)
_CONVERSION: Final = re.compile(r"(_to_copy|to|type_as|quantize_per_\w+|dequantize|_autocast_to\w*)")
_GATHER: Final = re.compile(
    r"(embedding\w*|_embedding_bag\w*|index|index_select|gather|take|take_along_dim|scatter\w*|index_put|index_add"
    r"|_index_put_impl|masked_select|masked_scatter|nonzero\w*|one_hot|embedding_renorm)"
)
_SAMPLING: Final = re.compile(r"(argmax|argmin|multinomial|topk|sort|msort|argsort|exponential)")
_VIEWS: Final = re.compile(
    r"(empty\w*|new_empty\w*|view\w*|_unsafe_view|reshape\w*|_reshape_alias|as_strided|transpose|swapaxes|t|T|mT"
    r"|permute|expand|expand_as|slice|select|narrow|unsqueeze|squeeze|split\w*|unsafe_split\w*|chunk|unbind"
    r"|flatten|unflatten|movedim|detach|alias|lift\w*|resolve_conj|resolve_neg|result_type|resize|set|item"
    r"|_local_scalar_dense|is_nonzero|size|stride|diagonal|unfold|broadcast_tensors|meshgrid|real|conj\w*)"
)
_SYNCHRONISING: Final = re.compile(
    r"aten::(item|_local_scalar_dense|nonzero|is_nonzero)|cuda(Stream|Device|Event)Synchronize|cudaMemcpy"
)
_LAUNCHES: Final = re.compile(r"cu(da)?Launch\w*|cudaGraphLaunch")


def plain_name(name: str) -> str | None:
    """ "aten::add_" and "aten.add_.Tensor" as "add"; None for what is no operator."""
    if "::" in name:
        space, _, plain = name.partition("::")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", space) or space in ("autograd", "torch"):
            return None
    elif name.startswith(("aten.", "prims.", "mkldnn.", "quantized.", "onednn.")):
        plain = name.split(".")[1]
    else:
        return None
    return plain.rstrip("_") or plain


def group_of(names: Iterable[str], *, is_language_model: bool) -> Group | None:
    """`names`: the operator's own, then those it was called from, the nearest first.

    In a language model products of two activations and softmax are attention, which "eager" attention
    writes out; in any other module they are what they are called.
    """
    listed = list(names)
    plain = plain_name(listed[0])
    if plain is None:
        return None
    callers = [found for name in listed[1:] if (found := plain_name(name)) is not None]
    if SAMPLING_RANGE in listed[1:]:
        return "sampling"
    if any(_ATTENTION.search(name) for name in (plain, *callers)):
        return "attention"
    if is_language_model and (plain in _PRODUCTS or _PRODUCTS & set(callers)) and "linear" not in callers:
        return "attention"
    if plain == "copy" and any(_CONVERSION.fullmatch(name) for name in callers):
        return "conversion"
    for group, pattern in _TABLE:
        if pattern.fullmatch(plain):
            return group
    return "elementwise"


_TABLE: Final[tuple[tuple[Group, re.Pattern[str]], ...]] = (
    ("matrices", _MATRICES),
    ("copies", _COPIES),
    ("conversion", _CONVERSION),
    ("gather", _GATHER),
    ("sampling", _SAMPLING),
    ("views", _VIEWS),
)


def is_synchronising(name: str) -> bool:
    """Makes the CPU wait for a GPU."""
    return _SYNCHRONISING.match(name) is not None


def is_launch(name: str) -> bool:
    return _LAUNCHES.match(name) is not None
