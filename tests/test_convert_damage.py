"""Weight files that are damaged or hostile end in one sentence, and nothing is written."""

import json
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kept_models import export_open_clip, state_dict
from safetensors.numpy import save_file
from test_convert_forms import CONFIG, PREPROCESS, call, names_in, random_params

from bioclip2_jax.errors import UserError
from bioclip2_jax.weights.open import CONFIG_FILE, WEIGHTS_FILE


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good") / "model"
    export_open_clip(random_params(CONFIG), CONFIG, PREPROCESS, folder)
    return folder


def header_of(data: bytes) -> tuple[dict, bytes]:
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def with_header(header: object, body: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def edited(data: bytes, name: str, **changes: object) -> bytes:
    header, body = header_of(data)
    header[name] |= changes
    return with_header(header, body)


def poisoned(data: bytes, value: float) -> bytes:
    header, body = header_of(data)
    start = header["ln_final.bias"]["data_offsets"][0]
    return with_header(header, body[:start] + struct.pack("<f", value) + body[start + 4 :])


DAMAGES = {
    "empty": lambda d: b"",
    "seven bytes": lambda d: d[:7],
    "half of the header": lambda d: d[:400],
    "without the last byte": lambda d: d[:-1],
    "one byte too many": lambda d: d + b"\0",
    "a header of 2^63 bytes": lambda d: struct.pack("<Q", 2**63) + d[8:],
    "a header of 4 GiB": lambda d: struct.pack("<Q", 2**32) + d[8:],
    "a header of nested lists": lambda d: struct.pack("<Q", 40000) + b"[" * 20000 + b"]" * 20000,
    "a header that is a list": lambda d: with_header([], b""),
    "a header without tensors": lambda d: with_header({}, b""),
    "a header that is no JSON": lambda d: struct.pack("<Q", 8) + b"notjson!" + d[8:],
    "a shape larger than the file": lambda d: edited(d, "visual.proj", shape=[2**40, 2**20]),
    "a negative size": lambda d: edited(d, "visual.proj", shape=[-48, 20]),
    "offsets out of order": lambda d: edited(d, "visual.proj", data_offsets=[80, 8]),
    "offsets outside": lambda d: edited(d, "visual.proj", data_offsets=[0, 2**50]),
    "an unknown dtype": lambda d: edited(d, "visual.proj", dtype="Q9"),
    "whole numbers": lambda d: edited(d, "visual.proj", dtype="I32"),
    "another shape": lambda d: edited(d, "visual.proj", shape=[20, 48]),
    "not a number": lambda d: poisoned(d, float("nan")),
    "infinity": lambda d: poisoned(d, float("inf")),
    "a page of text": lambda d: b"version https://git-lfs.github.com/spec/v1\n" * 20,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("to", ["orbax", "transformers"])
def test_a_damaged_file_is_named_and_nothing_is_written(good, tmp_path, damage, to):
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / CONFIG_FILE).write_bytes((good / CONFIG_FILE).read_bytes())
    (bad / WEIGHTS_FILE).write_bytes(DAMAGES[damage]((good / WEIGHTS_FILE).read_bytes()))
    result = call(bad, tmp_path / "out", "--to", to)
    assert isinstance(result.exception, UserError), result.exception
    assert str(bad) in str(result.exception) and "\n" not in str(result.exception)
    assert names_in(tmp_path) == ["bad"]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_no_change_of_bytes_ends_in_anything_but_an_error_or_a_model(good, tmp_path_factory, data):
    tmp_path = tmp_path_factory.mktemp("fuzz")
    original = bytearray((good / WEIGHTS_FILE).read_bytes())
    size = int.from_bytes(original[:8], "little")
    for _ in range(data.draw(st.integers(1, 5))):
        original[data.draw(st.integers(0, size + 300))] = data.draw(st.integers(0, 255))
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / CONFIG_FILE).write_bytes((good / CONFIG_FILE).read_bytes())
    (bad / WEIGHTS_FILE).write_bytes(original)
    result = call(bad, tmp_path / "out", "--to", "open_clip")
    assert result.exit_code == 0 or isinstance(result.exception, UserError), result.exception
    assert names_in(tmp_path) == (["bad", "out"] if result.exit_code == 0 else ["bad"])


def test_all_keys_that_do_not_fit_are_listed_in_one_error(tmp_path):
    tensors = state_dict(random_params(CONFIG), CONFIG)
    tensors["extra.weight"] = np.zeros(3, "f4")
    del tensors["ln_final.weight"], tensors["visual.proj"]
    tensors["text_projection"] = np.zeros((3, 3), "f4")
    export_open_clip(random_params(CONFIG), CONFIG, PREPROCESS, tmp_path / "bad")
    save_file(tensors, tmp_path / "bad" / WEIGHTS_FILE)
    message = str(call(tmp_path / "bad", tmp_path / "out").exception)
    for words in (
        "ln_final.weight is missing",
        "visual.proj is missing",
        "text_projection is [3, 3], expected [32, 20]",
        "extra.weight is not known",
    ):
        assert words in message
    assert names_in(tmp_path) == ["bad"]


def test_values_too_large_for_half_precision_are_refused(tmp_path):
    params = random_params(CONFIG)
    params["text"]["projection"][0, 0] = 1e6
    export_open_clip(params, CONFIG, PREPROCESS, tmp_path / "large")
    result = call(tmp_path / "large", tmp_path / "out", "--to", "open_clip", "--dtype", "float16")
    assert "too large for float16" in str(result.exception)
    assert names_in(tmp_path) == ["large"]
