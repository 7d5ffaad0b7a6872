"""Settings: no field of any command takes a number that it cannot use, from the command line, YAML or a call."""

import dataclasses
import inspect

import pytest

from mlxrlhf import config
from mlxrlhf.errors import UserError
from mlxrlhf.settings import DEEPEST, parse_json, read_json, read_yaml, validate

COMMANDS = [
    kind
    for name, kind in inspect.getmembers(config, inspect.isclass)
    if name.endswith("Config") and name != "ModelConfig"
]
NUMBERS = [(kind, f) for kind in COMMANDS for f in dataclasses.fields(kind) if type(f.default) in (int, float)]


def test_every_default_is_allowed():
    for kind in COMMANDS:
        validate(kind())


def test_no_number_of_any_command_may_be_infinite_or_too_large_or_none():
    assert len(NUMBERS) > 150
    for kind, f in NUMBERS:
        wrong = [float("inf"), -float("inf"), float("nan"), 10**400, -(10**400), "1", True, None]
        wrong += [2.5, 2**63] if type(f.default) is int else [1e39, 1e-39]
        for value in wrong:
            with pytest.raises(UserError, match=f"^--{f.name.replace('_', '-')} is "):
                validate(dataclasses.replace(kind(), **{f.name: value}))


def test_a_count_ends_where_nothing_could_be_counted_out_but_a_seed_has_64_bits():
    validate(config.PPOConfig(seed=2**63 - 1))
    with pytest.raises(UserError, match="--batch-size is 2147483648; it must be at most 2,147,483,647"):
        validate(config.PPOConfig(batch_size=2**31))


def test_what_zero_would_divide_is_above_it():
    with pytest.raises(UserError, match="--beta is 0.0; it must be above 0"):
        validate(config.DPOConfig(beta=0.0))
    with pytest.raises(UserError, match="--gamma is 1.5; it must be at most 1"):
        validate(config.PPOConfig(gamma=1.5))


def written(path, text):
    path.write_text(text)
    return read_yaml(path, config.PPOConfig)


def test_yaml_values_are_read_by_the_type_of_their_flag(tmp_path):
    text = "\ufeffbatch-size: 1e3\nlearning_rate: 1e-4\nout: 2026-01-01\nresume: yes\nreward: off\nseed: 1_000\n"
    found = written(tmp_path / "run.yaml", text)
    assert found == {
        "batch_size": 1000,
        "learning_rate": 1e-4,
        "out": "2026-01-01",
        "resume": True,
        "reward": "off",
        "seed": 1000,
    }


BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nbatch-size: *c\n"


@pytest.mark.parametrize(
    "text, said",
    [
        ("batch-size:\n", ":1: batch-size must be one value of type int"),
        ("batch-size: null\n", ":1: batch-size must be one value of type int"),
        ("seed: 1\nbatch-size: [1]\n", ":2: batch-size must be one value"),
        ("seed: 1\nseed: 2\n", ":2: seed stands here a second time"),
        ("batch-size: .inf\n", ":1: batch-size is '.inf'; it must be a value of type int"),
        ("resume: 1\n", ":1: resume is '1'; it must be a value of type bool"),
        (BOMB, ":1: a is no flag"),
        ("? [a]\n: 1\n", ":1: a list or mapping is no flag"),
        ("a: *b\n", "is not valid YAML"),
        ("--- 1\n--- 2\n", "is not valid YAML"),
        ("[" * 5000, "is nested too deeply"),
        ("", "must hold lines"),
    ],
)
def test_a_bad_yaml_file_is_one_sentence_with_its_line(tmp_path, text, said):
    with pytest.raises(UserError) as error:
        written(tmp_path / "run.yaml", text)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_numbers_that_yaml_can_write_and_no_setting_holds(tmp_path):
    for text in ("gamma: .inf", "gamma: .NaN", "gamma: -.Inf", "gamma: 1e400", "seed: " + "9" * 400):
        found = written(tmp_path / "run.yaml", text)
        with pytest.raises(UserError, match="^--(gamma|seed) is "):
            validate(config.PPOConfig(**found))
    with pytest.raises(UserError, match="seed is "):
        written(tmp_path / "run.yaml", "seed: " + "9" * 5000)


def test_json_is_read_as_the_standard_has_it(tmp_path):
    path = tmp_path / "config.json"
    assert parse_json('{"a": [1, 2.5, "\\ud83e\\udd9c", null]}', "x") == {"a": [1, 2.5, "🦜", None]}
    for text, said in (
        ("NaN", "NaN is no JSON number"),
        ("[1e999]", "1e999 is too large"),
        ("9" * 401, "a number of 401 digits"),
        ('{"a": 1, "a": 2}', "the key 'a' stands twice"),
        ('["\\ud83d"]', "half a character"),
        ('{"\\uDEAD": 1}', "half a character"),
        ("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), f"nested deeper than {DEEPEST}"),
        ("[" * 100_000, "nested too deeply"),
        ("{", "Expecting property name"),
    ):
        with pytest.raises(UserError, match="^FILE is n") as error:
            parse_json(text, "FILE")
        assert said in str(error.value)
    path.write_bytes(b"\xef\xbb\xbf{}")
    assert read_json(path) == {}
    for content, said in (
        (b"null", "holds a NoneType"),
        (b"\xff\xfe{\x00", "is not UTF-8"),
        (b"", "is not valid JSON"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=said):
            read_json(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_json(tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        read_json("nul\0byte")
